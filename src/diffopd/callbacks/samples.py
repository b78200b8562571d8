"""Pictures of a few fixed prompts every so many rounds: something to look at while a model trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from typing_extensions import override

from diffopd.callbacks.adapter_export import exported_adapter
from diffopd.callbacks.other_prompts import as_prompts, prompts_beside_pictures
from diffopd.callbacks.sample_source import SampleSource
from diffopd.evaluation import Benchmark
from diffopd.files.sample_row import SampleRow
from diffopd.strategy import Sharded
from diffopd.teacher import SelfTeacher
from diffopd.types import Prompts

log = logging.getLogger(__name__)

KEY = "samples"
"""What loggers call the pictures."""


class Samples(Callback):
    """Draws ``samples/round_000020.png``: a few prompts that training does not use, from the same noise.

    A row is drawn before the first round, after every ``every_n_rounds``, at ``shares`` of the run, and after
    the last round, of the adapter that would be exported then. TensorBoard, Weights & Biases and MLflow get
    it as an image, with the number of rounds as its step.

    Training does not notice: every draw has a generator of its own, and checkpoints hold nothing of it. A
    picture that is there already and was made from the same weights and settings is not drawn again, so a
    resumed run repeats and misses none. A run that is interrupted draws its last row once it is resumed and
    done.

    Where the model teaches itself from pictures, the teacher's picture stands beside each of the student's.
    The teacher is shown one of the training pictures, whatever the prompt.

    The first process draws while the others wait for it at their next exchange. Where the backbone is in
    shards all of them draw, as a forward needs them all, and the first one writes.

    It does nothing for phases that train no adapter, and where there are no prompts: neither ``prompts`` nor
    a benchmark, nor pictures that are learned and ``templates``.

    Attributes:
        benchmark: Where prompts, sampler and seed are taken from; set by whoever builds the training.
        folder: Where the pictures are.
    """

    left_out_of_trials: ClassVar[bool] = True  # by doctor: pictures between rounds are no part of a round

    def __init__(
        self,
        *,
        every_n_rounds: int,
        shares: Sequence[float],
        num_prompts: int,
        prompts: Sequence[str] | None,
        folder: str,
        templates: Sequence[str] | None = None,  # not in the configs that earlier runs saved
    ) -> None:
        """Configure what is drawn, and how often.

        Args:
            every_n_rounds: Rounds between two rows; 0 = at ``shares`` alone, and without these never, not
                even at the start and at the end.
            shares: Shares of all rounds, from 0 to 1, after which a row is drawn, too.
            num_prompts: Prompts in a row: of the benchmark, of the tasks that are trained in turn; or of the
                templates.
            prompts: Your own prompts instead; None for the benchmark's.
            folder: Where the pictures go.
            templates: Prompts of a run that learns pictures, where there are no others; ``{caption}`` stands
                for a caption of theirs.

        Raises:
            ValueError: If a number is too small, or the list of prompts is empty.
        """
        for name, value, least in (("every_n_rounds", every_n_rounds, 0), ("num_prompts", num_prompts, 1)):
            if value < least:
                raise ValueError(f"callbacks.samples.{name} must be at least {least}, got {value}")
        if isinstance(shares, str) or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"callbacks.samples.shares={shares} must be a list of shares of the run from 0 to 1, as in "
                "[0, 0.25, 0.5, 1]"
            )
        if prompts is not None and (isinstance(prompts, str) or not prompts):
            raise ValueError(
                f"callbacks.samples.prompts={prompts!r} must be a list of prompts, or null for those of the "
                "benchmark; ~callbacks.samples draws none"
            )
        self.every_n_rounds = every_n_rounds
        self.shares = tuple(shares)
        self.num_prompts = num_prompts
        self.prompts = None if prompts is None else tuple(prompts)
        self.templates = None if templates is None else tuple(templates)
        self.folder = Path(folder)
        self.benchmark: Benchmark | None = None
        self._source: SampleSource | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw where the training starts from; when resuming, what should be there and is not."""
        if trainer.is_global_zero:
            for leftover in self.folder.glob(".round_*.writing"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
        wanted = self.every_n_rounds or self.shares
        self._source = self._find_source(trainer, pl_module) if wanted else None
        self._draw_if_due(trainer, pl_module, trainer.current_epoch)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw if the round just done calls for it."""
        self._draw_if_due(trainer, pl_module, trainer.current_epoch + 1)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the training ends with, unless it is to be resumed."""
        if not any(getattr(callback, "interrupted", False) for callback in cast(Any, trainer).callbacks):
            self._draw(trainer, pl_module, trainer.current_epoch)

    def _draw_if_due(self, trainer: Trainer, phase: LightningModule, num_rounds: int) -> None:
        every, last = self.every_n_rounds, trainer.max_epochs
        at_share = last is not None and num_rounds in {round(share * last) for share in self.shares}
        if num_rounds == 0 or at_share or (every and num_rounds % every == 0):
            self._draw(trainer, phase, num_rounds)

    def _find_source(self, trainer: Trainer, phase: Any) -> SampleSource | None:
        """What to draw, if the phase trains an adapter and there are prompts."""
        if not hasattr(phase, "handed_on") or not hasattr(phase, "model"):
            return None
        own = getattr(phase, "sampler", None)
        sampler = own if self.benchmark is None else self.benchmark.sampler
        prompts = self._own_prompts() or self._unseen_prompts(trainer)
        if prompts is None:
            templates = (self.templates or ())[: self.num_prompts]
            prompts = prompts_beside_pictures(templates, getattr(trainer, "datamodule", None))
        if sampler is None or prompts is None:
            if trainer.is_global_zero:
                log.info(
                    "no samples are drawn: there is no benchmark to take prompts of; "
                    "callbacks.samples.prompts=[...] names some"
                )
            return None
        guidance = phase.model.guidance_scale if own is None else own.guidance_scale
        seed = phase.seed if self.benchmark is None else self.benchmark.seed
        source = SampleSource(prompts, sampler, float(guidance), seed)
        teacher = getattr(phase, "teacher", None)
        if not isinstance(teacher, SelfTeacher) or not teacher.context.shows_target:
            return source
        first = cast(Any, trainer).datamodule.batch(0)
        shown = [target for target in first.targets if target is not None]
        targets = tuple(shown[row % len(shown)] for row in range(len(prompts)))
        return replace(
            source,
            taught=teacher.context(replace(prompts, targets=targets)),
            teacher=teacher.network.name,
            teacher_scale=teacher.guidance_scale,
        )

    def _own_prompts(self) -> Prompts | None:
        return None if self.prompts is None else as_prompts(self.prompts)

    def _unseen_prompts(self, trainer: Trainer) -> Prompts | None:
        """The benchmark's first prompts of the tasks that are trained, one of each in turn."""
        if self.benchmark is None:
            return None
        by_task = self.benchmark.prompts()
        trained = [task for task in by_task if task in getattr(cast(Any, trainer).datamodule, "tasks", ())]
        queues = [by_task[task] for task in trained or by_task]
        longest = max(map(len, queues))
        in_turn = [queue.select([row]) for row in range(longest) for queue in queues if row < len(queue)]
        return Prompts.concat(in_turn[: self.num_prompts])

    def _draw(self, trainer: Trainer, phase: LightningModule, num_rounds: int) -> None:
        """Draw the row of a round, unless it is there."""
        source, sharded = self._source, isinstance(trainer.strategy, Sharded)
        if source is None or not (trainer.is_global_zero or sharded):
            return
        if num_rounds == 0 and not trainer.training:
            return  # the process that forked a training has its weights afterwards, and not its counters
        model, adapter = cast(Any, phase).model, exported_adapter(phase)
        row = SampleRow(
            round=num_rounds,
            prompts=source.labels,
            tasks=source.tasks,
            made_from=source.digest(cast(Any, phase).policies, adapter),
        )
        there = row.is_in(self.folder)
        if sharded:  # all processes have to do the same
            there = trainer.strategy.broadcast(there)
        if there:
            return
        images = source.draw(model, adapter)
        if trainer.is_global_zero:
            picture = row.picture(images)
            for logger in trainer.loggers:
                _log_picture(logger, picture, row)
            row.save(picture, self.folder)  # last: what is there was logged


def _log_picture(logger: Logger, picture: Image.Image, row: SampleRow) -> None:
    """Hand a picture to a logger that takes pictures; one that fails costs the picture, not the training."""
    caption = f"round {row.round}: {' | '.join(row.prompts)}"
    try:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(KEY, np.asarray(picture), row.round, dataformats="HWC")
            logger.experiment.flush()
        elif isinstance(logger, WandbLogger):
            logger.log_image(KEY, [picture], step=row.round, caption=[caption])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(cast(str, logger.run_id), picture, artifact_file=f"{KEY}/{row.file}")
    except Exception as error:  # a server that does not answer, or a full disk there
        log.warning(
            "the samples of round %d are not in %s (%s: %s); they are in the run's folder",
            row.round,
            type(logger).__name__,
            type(error).__name__,
            error,
        )
