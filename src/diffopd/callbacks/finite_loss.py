"""A guard against nan and infinite numbers: before an update is applied, and before anything is saved."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from typing_extensions import override

from diffopd.non_finite import NonFiniteError, Report, Suspect, check_gradient, write_report
from diffopd.reward.checked import RewardError
from diffopd.strategy.divided import gathered
from diffopd.strategy.group import num_processes

log = logging.getLogger(__name__)

Action = Literal["stop", "skip"]


class FiniteLoss(Callback):
    """Stops the training, or drops the update, when a loss, a gradient or a reward is nan or infinite.

    Phases that train adapters find it out by the gradient's norm, which they have anyway, before their
    optimizer steps; others are looked at between their backward and their step. What was found is reported,
    and saved under ``non_finite/`` in the run's folder with all that ``python -m diffopd.replay`` needs.

    A logged metric that has a ``loss`` part in its name, such as ``train/loss/kl``, is looked at after the
    step, and always stops.

    It keeps the number of dropped updates, also in checkpoints.
    """

    def __init__(self, *, action: Action, max_skipped: int) -> None:
        """Configure what happens.

        Args:
            action: ``stop``: end the training with a report. ``skip``: drop the update and what is left of
                its round, and continue with the next round.
            max_skipped: With ``skip``, most updates that may be dropped in one training; one more stops it.

        Raises:
            ValueError: If the action is not known, or the number below 1.
        """
        if action not in get_args(Action):
            raise ValueError(
                f"callbacks.finite_loss.action={action} must be one of {', '.join(get_args(Action))}"
            )
        if max_skipped < 1:
            raise ValueError(f"callbacks.finite_loss.max_skipped={max_skipped} must be at least 1")
        self.action: Action = action
        self.max_skipped = max_skipped
        self.skipped = 0
        self._batch: Any = None
        self._skipped_in_round = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the guard around the phase's training step."""
        pl_module.training_step = self._guarded(trainer, pl_module, pl_module.training_step)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take it away."""
        step: Any = pl_module.training_step
        pl_module.training_step = getattr(step, "__wrapped__", step)

    def _guarded(
        self, trainer: Trainer, pl_module: LightningModule, step: Callable[..., Any]
    ) -> Callable[..., Any]:
        @functools.wraps(step)
        def training_step(batch: Any, batch_idx: int) -> Any:
            try:
                return step(batch, batch_idx)
            except NonFiniteError as error:
                self._found(trainer, pl_module, error, batch_idx)
            except RewardError as error:
                if not error.non_finite:
                    raise
                found = NonFiniteError("reward", str(error), suspects=_judged(error))
                found.__cause__ = error
                self._found(trainer, pl_module, found, batch_idx)
            return None

        return training_step

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No update of this round is dropped yet."""
        self._skipped_in_round = False

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which batch it is."""
        self._batch = batch_idx

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient of a phase that leaves its updates to Lightning."""
        if not pl_module.automatic_optimization:
            return
        try:
            check_gradient(optimizer)
        except NonFiniteError as error:
            self._found(trainer, pl_module, error, self._batch)

    def _found(
        self, trainer: Trainer, pl_module: LightningModule, error: NonFiniteError, batch_idx: int
    ) -> None:
        """Report and save; drop the update, or stop. All processes come here together."""
        report = Report(
            phase=type(pl_module).__name__,
            what=error.what,
            problem=str(error),
            round=trainer.current_epoch + 1,
            batch=batch_idx,
            update=error.update,
            global_step=trainer.global_step,
            seed=getattr(pl_module, "seed", None),
            suspects=_of_all_processes(error.suspects),
            metrics={name: f"{float(value):g}" for name, value in sorted(trainer.logged_metrics.items())},
        )
        text = f"{report}\n{self._saved(trainer, pl_module, report)}"
        if self.action == "stop" or self.skipped >= self.max_skipped:
            limit = f"{self.skipped} updates were dropped before, the most that max_skipped allows.\n"
            raise NonFiniteError(
                error.what,
                f"{text}\n{limit if self.action == 'skip' else ''}{ADVICE}",
                update=error.update,
                suspects=report.suspects,
            ) from error
        self.skipped += 1
        self._skipped_in_round = True
        for parameter in pl_module.parameters():
            parameter.grad = None  # what has no gradient, an optimizer leaves as it is
        if trainer.is_global_zero:
            log.warning("%s\nthe run continues; dropped %d, at most %d", text, self.skipped, self.max_skipped)

    def _saved(self, trainer: Trainer, pl_module: LightningModule, report: Report) -> str:
        """Save, in the first process, and say where; a disk that is full must not hide the report."""
        state = gathered(replay_state(pl_module))
        if not trainer.is_global_zero:
            return ""
        run = Path(trainer.default_root_dir)
        try:
            folder = write_report(run, report, state)
        except (OSError, TypeError) as error:
            return f"its state could not be saved ({error})"
        return f"saved in {folder}; python -m diffopd.replay run={run} repeats the round"

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check what the step returned and logged."""
        if not self._skipped_in_round:
            self._check(trainer, pl_module, _returned_loss(outputs), batch_idx)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the means over the round; log how many updates were dropped so far, if any."""
        if not self._skipped_in_round:
            self._check(trainer, pl_module, {}, self._batch or 0)
        if self.skipped:
            count = float(self.skipped)
            pl_module.log("train/skipped_updates", count, on_step=False, on_epoch=True, batch_size=1)

    def _check(
        self, trainer: Trainer, pl_module: LightningModule, returned: Mapping[str, float], batch_idx: int
    ) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        logged = {name: value for name, value in metrics.items() if "loss" in name.split("/")}
        losses = logged | dict(returned)
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            values = "\n".join(f"  {name} = {value:g}" for name, value in sorted((metrics | losses).items()))
            raise NonFiniteError(
                "metric",
                f"{type(pl_module).__name__}: {', '.join(broken)} is not finite in round "
                f"{trainer.current_epoch + 1} (optimizer step {trainer.global_step}).\n{values}\n{ADVICE}",
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        """How many updates were dropped."""
        return {"skipped": self.skipped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]


ADVICE = (
    "Nothing of this round was saved; resume=auto resumes from the last checkpoint. Usual causes: a high "
    "learning rate (optimizer.lr), a high phase.gradient_clip, or half precision (model.dtype). "
    "callbacks.finite_loss.action=skip drops such updates and continues."
)


def replay_state(phase: LightningModule) -> dict[str, Any]:
    """What a round can be done again from: the weights that training changes, and what the phase learned.

    ``start`` holds those weights as the round began, if updates were applied in it since.
    """
    checkpoint: dict[str, Any] = {"state_dict": dict(phase.state_dict())}
    phase.on_save_checkpoint(checkpoint)
    return {**checkpoint, "start": dict(getattr(phase, "round_start", None) or {})}


def _judged(error: RewardError) -> list[Suspect]:
    if error.sample is None:
        return []
    row = error.sample.prompt
    at = {"index": row.indices[0], "group": row.groups[0], "task": row.tasks[0], "prompt": row.texts[0]}
    return [Suspect(**at, step=None, loss=None)]


def _of_all_processes(suspects: tuple[Suspect, ...]) -> list[Suspect]:
    if num_processes() == 1:
        return list(suspects)
    parts: list[Any] = [None] * num_processes()
    distributed.all_gather_object(parts, list(suspects))
    return [suspect for part in parts for suspect in part]


def _returned_loss(outputs: Any) -> dict[str, float]:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return {"loss": float(loss)} if isinstance(loss, Tensor) else {}
