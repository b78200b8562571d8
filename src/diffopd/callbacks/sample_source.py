"""What samples during training are drawn with, and whether they would be the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffopd.evaluation import generate
from diffopd.policy import Policy
from diffopd.strategy.divided import whole_value
from diffopd.types import Prompts, Sampler

MAX_BATCH = 4
"""Images made together: few, as most of the memory is the training's."""


@dataclass(frozen=True)
class SampleSource:
    """What the samples of a training are made with.

    Attributes:
        prompts: What to draw.
        sampler: How.
        guidance_scale: At which guidance.
        seed: Of the noise.
        taught: The same as the model's teacher is told them, where it teaches itself; or None.
        teacher: Name of the network that teaches then; None for the base model.
        teacher_scale: Guidance at which it does.
    """

    prompts: Prompts
    sampler: Sampler
    guidance_scale: float
    seed: int
    taught: Prompts | None = None
    teacher: str | None = None
    teacher_scale: float = 1.0

    def draw(self, model: Any, adapter: str | None) -> Tensor:
        """The pictures of one network; beside each, the teacher's from the same noise where there is one."""
        own = self._images(model, self.prompts, adapter, self.guidance_scale)
        if self.taught is None:
            return own
        its = self._images(model, self.taught, self.teacher, self.teacher_scale)
        return torch.stack([own, its], dim=1).flatten(0, 1)

    def _images(self, model: Any, prompts: Prompts, adapter: str | None, scale: float) -> Tensor:
        return generate(
            model,
            prompts,
            sampler=self.sampler,
            guidance_scale=scale,
            adapters=adapter,
            seed=self.seed,
            batch_size=MAX_BATCH,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands under each picture."""
        if self.taught is None:
            return self.prompts.texts
        return tuple(f"{who}: {text}" for text in self.prompts.texts for who in ("student", "teacher"))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task of each picture."""
        each = 1 if self.taught is None else 2
        return tuple(task for task in self.prompts.tasks for _ in range(each))

    def digest(self, policies: Mapping[str, Policy], adapter: str) -> str:
        """SHA-256 of all that a picture depends on and that may change in one run's folder.

        Args:
            policies: Of the phase, by name.
            adapter: The one that is drawn with.
        """
        plain = int | float | str | tuple | list
        sampler = {
            name: value
            for name, value in getattr(self.sampler, "__dict__", {}).items()
            if isinstance(value, plain)
        }
        settings: list[Any] = [
            self.prompts.texts,
            self.prompts.indices,
            self.guidance_scale,
            self.seed,
            type(self.sampler).__name__,
            sampler,
        ]
        used = [adapter]
        if self.taught is not None:
            told = [self.taught.key(row) for row in range(len(self.taught))]
            settings += [told, self.teacher, self.teacher_scale]
            if self.teacher is not None and self.teacher in policies and self.teacher != adapter:
                used.append(self.teacher)
        value = hashlib.sha256(json.dumps(settings).encode())
        for policy in used:
            for name, parameter in sorted(policies[policy].weights().items()):
                value.update(name.encode())
                value.update(whole_value(parameter.detach()).cpu().contiguous().numpy().tobytes())
        return value.hexdigest()
