"""The frozen teachers of a run, and the rule that picks one for each prompt: its task's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.adapter import check_adapter, load_adapter
from diffopd.files import resolve_path
from diffopd.model import guided_velocity
from diffopd.teacher.card import TeacherCard
from diffopd.types import Conditioning, VelocityModel


class AdaptedModel(VelocityModel, Protocol):
    """A velocity model with room for adapters."""

    transformer: Any

    @property
    def identity(self) -> str:
        """Hash of the base model."""
        ...


@final
class TeacherSet:
    """Any number of teachers, one per task, as frozen adapters on the one backbone.

    Attributes:
        tasks: The tasks that have a teacher, in the config's order.
        cards: task -> card.
        guidance_scales: task -> guidance at which its teacher is queried.
    """

    def __init__(self, *, teachers: Mapping[str, Mapping[str, Any]], check_base: bool) -> None:
        """Read the cards; weights wait for :meth:`load`.

        Args:
            teachers: task -> ``{path, guidance_scale}``; a null guidance scale is taken from the card.
            check_base: Refuse a teacher whose card names another base model.

        Raises:
            ValueError: If there is no teacher, or one has no complete card.
        """
        if not teachers:
            raise ValueError("teacher.teachers is empty; name at least one task, as in teacher=ocr")
        self.check_base = check_base
        self._folders: dict[str, Path] = {}
        self.cards: dict[str, TeacherCard] = {}
        self.guidance_scales: dict[str, float] = {}
        for task, entry in teachers.items():
            allowed = {"path", "guidance_scale"}
            if set(entry) != allowed:
                raise ValueError(f"{_at(task)} has keys {sorted(entry)}, it needs {sorted(allowed)}")
            folder = Path(resolve_path(entry["path"]))
            self._folders[task] = folder
            self.cards[task] = TeacherCard.load(folder, setting=_at(task, "path"))
            scale = entry["guidance_scale"]
            if scale is not None and not scale >= 1:
                raise ValueError(f"{_at(task, 'guidance_scale')}={scale}; at least 1 is allowed, or null")
            self.guidance_scales[task] = self.cards[task].guidance_scale if scale is None else float(scale)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a teacher."""
        return tuple(self._folders)

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Compare every teacher's rank and layers with the backbone, before weights load.

        Args:
            base_config: The transformer's ``config.json``.

        Raises:
            ValueError: If one does not fit.
        """
        for task, folder in self._folders.items():
            check_adapter(folder, base_config, setting=_at(task, "path"))

    def load(self, model: AdaptedModel) -> None:
        """Add every teacher to ``model``, frozen, under ``teacher_<task>``.

        Raises:
            ValueError: If one does not fit, or was trained on another base and ``check_base`` is on.
        """
        for task, folder in self._folders.items():
            card = self.cards[task]
            if self.check_base and card.base != model.identity:
                raise ValueError(
                    f"{_at(task, 'path')}={folder} was trained on base {card.base[:12]}, this model "
                    f"is {model.identity[:12]}; use that base, retrain the teacher, or set "
                    "teacher.check_base=false"
                )
            load_adapter(model.transformer, self.adapter(task), folder, setting=_at(task, "path"))

    def adapter(self, task: str) -> str:
        """Name of the adapter that teaches ``task``.

        Raises:
            ValueError: If no teacher does.
        """
        if task not in self._folders:
            raise ValueError(f"no teacher for task {task}; teacher.teachers has {', '.join(self.tasks)}")
        return f"teacher_{task}"

    @torch.no_grad()
    def velocity(
        self,
        model: VelocityModel,
        latent: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        tasks: Sequence[str],
        conditioning: Conditioning,
        unconditional: Conditioning,
    ) -> Float[Tensor, " batch *latent"]:
        """Each row's velocity by its own teacher at that teacher's guidance, in one forward.

        Args:
            model: Holds the teachers.
            latent: States the student visited.
            sigma: Their noise.
            tasks: The task of each row.
            conditioning: One row per state.
            unconditional: Encoding of the empty prompt: one row, or one per state.

        Returns:
            Target velocities in fp32, without gradient.
        """
        adapters = [self.adapter(task) for task in tasks]
        scales = [self.guidance_scales[task] for task in tasks]
        return guided_velocity(model, latent, sigma, conditioning, unconditional, scales, adapters)


def _at(task: str, key: str | None = None) -> str:
    """Config path of a teacher's entry."""
    return f"teacher.teachers.{task}" + (f".{key}" if key else "")
