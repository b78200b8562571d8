"""After the last round: does the model draw the layout of its pictures where other things are asked for?"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from diffopd.callbacks.adapter_export import exported_adapter
from diffopd.callbacks.other_prompts import as_prompts, prompts_beside_pictures
from diffopd.callbacks.sample_source import SampleSource
from diffopd.context.base import CAPTION
from diffopd.data.rounds import RoundData
from diffopd.files.atomic import atomic_write_json
from diffopd.files.picture import read_picture
from diffopd.metric.leak import Leak, nearest_distance, nearest_layout
from diffopd.phase.context_probe import probed_rows
from diffopd.phase.distill import DistillPhase
from diffopd.randomness import derived_seed
from diffopd.strategy import Sharded
from diffopd.teacher import SelfTeacher
from diffopd.types import Prompts

log = logging.getLogger(__name__)


class LeakTest(Callback):
    """Compares samples of other prompts with the training pictures, once the run is done.

    The same prompts are drawn by the base model from the same noise, as some pictures are alike anyway. It
    acts for a model that teaches itself from at most ``most_pictures`` pictures, and does nothing for others.
    Nothing of the training depends on it.

    Attributes:
        leak: What was measured; None before, and where nothing is.
    """

    left_out_of_trials = True  # by doctor: nothing was learned

    def __init__(
        self,
        *,
        prompts: Sequence[str] | None,
        templates: Sequence[str] | None,
        num_draws: int,
        most_pictures: int,
        least_rise: float,
        file: str,
        least_approach: float = 0.5,  # not in the configs that earlier runs saved
    ) -> None:
        """Configure what is drawn and what counts as a leak.

        Args:
            prompts: What is asked for; None for ``templates``.
            templates: Prompts of which those with ``{caption}``, which ask for the pictures, are left out.
            num_draws: Samples of each prompt, at least 1.
            most_pictures: Training pictures up to which a leak is looked for, at least 1.
            least_rise: Least rise of the correlation of layouts over the base model's, in [0, 2].
            file: The JSON file that the numbers go to.
            least_approach: Share of the base model's squared distance from the pictures by which samples have
                to come nearer to be a warning, in [0, 1].

        Raises:
            ValueError: If a number is out of range.
        """
        for name, value in (("num_draws", num_draws), ("most_pictures", most_pictures)):
            if value < 1:
                raise ValueError(
                    f"callbacks.leak_test.{name} must be at least 1, got {value}; ~callbacks.leak_test "
                    "measures nothing"
                )
        if not 0 <= least_rise <= 2:
            raise ValueError(f"callbacks.leak_test.least_rise={least_rise} must be in [0, 2]")
        if not 0 <= least_approach <= 1:
            raise ValueError(f"callbacks.leak_test.least_approach={least_approach} must be in [0, 1]")
        self.prompts = None if prompts is None else tuple(prompts)
        self.templates = None if templates is None else tuple(templates)
        self.num_draws, self.most_pictures = num_draws, most_pictures
        self.least_rise, self.file = float(least_rise), Path(file)
        self.least_approach = float(least_approach)
        self.leak: Leak | None = None

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, unless the run is to be resumed."""
        if any(getattr(callback, "interrupted", False) for callback in cast(Any, trainer).callbacks):
            return
        if not trainer.is_global_zero and not isinstance(trainer.strategy, Sharded):
            return
        phase, data, rounds = pl_module, getattr(trainer, "datamodule", None), trainer.current_epoch
        if rounds == 0:  # in the process that forked a training
            return
        if not isinstance(phase, DistillPhase) or not isinstance(phase.teacher, SelfTeacher):
            return
        prompts = prompts_beside_pictures(self._asked(), data)
        rows = probed_rows(data, self.most_pictures + 1) if isinstance(data, RoundData) else None
        if prompts is None or rows is None or len(rows) > self.most_pictures:
            return
        there = self._is_there(rounds, prompts.texts)
        if trainer.strategy.broadcast(there) if isinstance(trainer.strategy, Sharded) else there:
            return
        self.leak = self._measured(phase, as_prompts(prompts.texts), rows, exported_adapter(phase))
        if trainer.is_global_zero:
            self._tell(self.leak, rounds)

    def _is_there(self, rounds: int, texts: Sequence[str]) -> bool:
        """Whether the file is of these rounds and prompts: a finished run may be started again."""
        try:
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            return kept["rounds"] == rounds and [entry["prompt"] for entry in kept["prompts"]] == list(texts)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _asked(self) -> Sequence[str]:
        """One's own prompts, or of the templates those that do not ask for what the pictures show."""
        if self.prompts is not None:
            return self.prompts
        return [template for template in self.templates or () if CAPTION not in template]

    @torch.no_grad()
    def _measured(self, phase: DistillPhase, prompts: Prompts, rows: Prompts, adapter: str) -> Leak:
        """Draw both models' samples and compare them."""
        size = phase.model.size
        pictures = torch.stack(
            [
                read_picture(replace(target, height=size[0], width=size[1]))
                for target in rows.targets
                if target is not None
            ]
        )
        targets = self._latents(phase, pictures)
        found: dict[str, list[Tensor]] = {"trained": [], "base": []}
        for draw in range(self.num_draws):
            seed = derived_seed(phase.seed, "leak_test", draw)
            source = SampleSource(prompts, phase.sampler, phase.sampler.guidance_scale, seed)
            for who, name in (("trained", adapter), ("base", None)):
                images = source.draw(phase.model, name)
                layout = nearest_layout(images, pictures)
                latent = nearest_distance(self._latents(phase, images), targets)
                found[who].append(torch.stack([layout, latent]))
        trained, base = (torch.stack(found[who]).mean(0) for who in ("trained", "base"))
        return Leak(
            prompts=prompts.texts,
            layout=(trained[0], base[0]),
            latent=(trained[1], base[1]),
            num_draws=self.num_draws,
            least_rise=self.least_rise,
            least_approach=self.least_approach,
        )

    def _latents(self, phase: DistillPhase, images: Tensor) -> Tensor:
        """Latents of images, on the CPU."""
        return phase.model.encode_images(images.to(phase.device)).cpu()

    def _tell(self, leak: Leak, rounds: int) -> None:
        """Log the numbers, and keep them."""
        for problem in leak.problems:
            log.warning("%s", problem)
        if not (leak.leaks or leak.forgets):
            log.info("no leak found: %s", leak.summary)
        atomic_write_json(self.file, {"rounds": rounds, **leak.to_json()})
