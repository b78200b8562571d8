"""Whether a teacher that is told more knows better than its student, measured before the first round."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from diffopd.data.rounds import RoundData
from diffopd.files.atomic import atomic_write_json
from diffopd.metric.context_gain import ContextGain
from diffopd.phase.context_probe import PictureDistance, probe_context, probed_rows
from diffopd.phase.distill import DistillPhase
from diffopd.strategy import Sharded
from diffopd.teacher import SelfTeacher

log = logging.getLogger(__name__)

ANSWERS = ("warn", "refuse")


class ContextProbe(Callback):
    """Measures on the student's own states whether the teacher's context helps, and writes it down.

    It acts before the first round of a run whose model teaches itself and whose data has pictures, and does
    nothing for others. A run that is resumed after its first checkpoint is not measured again. Training does
    not notice: all draws have a name of their own, and checkpoints hold nothing of it.

    The first process measures while the others wait. Where the backbone is in shards all of them do, as a
    forward needs them all.

    Attributes:
        gain: What was measured; None before, and where nothing is.
    """

    def __init__(
        self,
        *,
        num_pictures: int,
        num_draws: int,
        least_gain: float,
        if_no_help: Literal["warn", "refuse"],
        perceptual: PictureDistance | None,
        file: str,
    ) -> None:
        """Configure how much is measured and what follows from it.

        Args:
            num_pictures: Pictures, at least 1; all if there are fewer.
            num_draws: Rollouts of each, at least 1.
            least_gain: Least share of the student's squared distance by which the teacher has to be nearer,
                in [0, 1).
            if_no_help: ``warn``, or ``refuse``: the run ends before its first round.
            perceptual: Distance of decoded predictions from the pictures, or None.
            file: The JSON file that the numbers go to.

        Raises:
            ValueError: If a value is not known or out of range.
        """
        for name, value in (("num_pictures", num_pictures), ("num_draws", num_draws)):
            if value < 1:
                raise ValueError(
                    f"callbacks.context_probe.{name} must be at least 1, got {value}; "
                    "~callbacks.context_probe measures nothing"
                )
        if not 0 <= least_gain < 1:
            raise ValueError(
                f"callbacks.context_probe.least_gain={least_gain} must be at least 0 and less than 1"
            )
        if if_no_help not in ANSWERS:
            raise ValueError(
                f"callbacks.context_probe.if_no_help={if_no_help} must be one of {', '.join(ANSWERS)}"
            )
        self.num_pictures, self.num_draws, self.least_gain = num_pictures, num_draws, float(least_gain)
        self.if_no_help, self.perceptual, self.file = if_no_help, perceptual, Path(file)
        self.gain: ContextGain | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, unless the run is resumed.

        Raises:
            ValueError: If the context does not help and that is to end the run, in all processes.
        """
        if trainer.current_epoch > 0 or not trainer.training:  # as in the process that forked a training
            return
        sharded = isinstance(trainer.strategy, Sharded)
        if trainer.is_global_zero or sharded:
            self.gain = self._measured(pl_module, getattr(trainer, "datamodule", None))
        if trainer.is_global_zero and self.gain is not None:
            self._tell(self.gain)
        helps = trainer.strategy.broadcast(self.gain is None or self.gain.helps)
        if self.if_no_help == "refuse" and not helps:
            raise ValueError(
                "the run ends here, as callbacks.context_probe.if_no_help=refuse asks: the context does not "
                f"help, see {self.file}; callbacks.context_probe.if_no_help=warn trains all the same"
            )

    def _measured(self, phase: Any, data: Any) -> ContextGain | None:
        """The measurement, if there is anything to measure."""
        if not isinstance(phase, DistillPhase) or not isinstance(phase.teacher, SelfTeacher):
            return None
        rows = probed_rows(data, self.num_pictures) if isinstance(data, RoundData) else None
        if rows is None:
            log.info("the context is not measured: data has no pictures to compare predictions with")
            return None
        states = probe_context(phase, rows, num_draws=self.num_draws, perceptual=self.perceptual)
        return ContextGain(states=states, num_draws=self.num_draws, least_gain=self.least_gain)

    def _tell(self, gain: ContextGain) -> None:
        """Log the numbers, and keep them."""
        for line in gain.lines():
            log.info("context: %s", line)
        if gain.helps:
            log.info("the context helps: %s", gain.summary)
        for problem in gain.problems:
            log.warning("%s", problem)
        atomic_write_json(self.file, cast(Any, gain.to_json()))
