"""Checkpoints at the end of a round, where a training can be cut and continued without a trace."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from diffopd.callbacks.csv_logger import ResumableCSVLogger
from diffopd.checkpoint import SafetensorsCheckpointIO
from diffopd.checkpoint.folder import checkpoint_name, list_checkpoints, remove_leftovers
from diffopd.checkpoint.keeping import clear_later, make_way, superfluous
from diffopd.host.signals import REQUESTS_TO_END

log = logging.getLogger(__name__)


class RoundCheckpoint(Checkpoint):
    """Saves ``round_000010``, ``round_000020``, ... and keeps the newest.

    Checkpoints are taken only between rounds: every ``every_n_rounds``, after the last one, and after the
    current one when the process is asked to end (SIGTERM, SIGUSR1, Ctrl-C), which then stops the training. A
    second request stops at once. An error in the middle of a round saves nothing, as the state is no
    longer that of a whole number of rounds; the last checkpoint stands.

    An older checkpoint is removed once it is one too many, a later one only if it failed verification.
    Anything else that stands where a checkpoint is to be saved, or after it, is moved to the folder
    ``set_aside`` beside it.

    Loggers hear of a round's means only after its checkpoint is saved. So that an end between the two loses
    nothing, a checkpoint holds the round's row of ``metrics.csv`` too, and a resumed run completes the file.

    Attributes:
        interrupted: Whether a signal stopped the training.
    """

    def __init__(
        self,
        *,
        folder: str,
        every_n_rounds: int,
        keep_last: int,
        keep_every_n_rounds: int | None,
        largest_file_gib: int | float = 5,  # not in the configs that earlier runs saved
    ) -> None:
        """Configure where, how often and how many.

        Args:
            folder: Where the checkpoints go.
            every_n_rounds: Rounds between two checkpoints, at least 1.
            keep_last: Number of newest checkpoints to keep, at least 1; older ones are removed.
            keep_every_n_rounds: Checkpoints after a multiple of so many rounds are kept for good, so a
                multiple of ``every_n_rounds``; None for no others than the newest.
            largest_file_gib: GiB of tensors in one file at most, above 0; more are in several files.

        Raises:
            ValueError: If a number is out of range, or a multiple is none.
        """
        if not largest_file_gib > 0:
            raise ValueError(
                f"callbacks.round_checkpoint.largest_file_gib must be above 0, got {largest_file_gib}"
            )
        counts = {"every_n_rounds": every_n_rounds, "keep_last": keep_last}
        for name, value in (counts | {"keep_every_n_rounds": keep_every_n_rounds}).items():
            if value is not None and value < 1:
                raise ValueError(f"callbacks.round_checkpoint.{name} must be at least 1, got {value}")
        if keep_every_n_rounds is not None and keep_every_n_rounds % every_n_rounds:
            raise ValueError(
                f"callbacks.round_checkpoint.keep_every_n_rounds={keep_every_n_rounds} must be a multiple of "
                f"callbacks.round_checkpoint.every_n_rounds={every_n_rounds}, or null: "
                "there is no checkpoint after other rounds"
            )
        self.folder = Path(folder)
        self.every_n_rounds = every_n_rounds
        self.keep_last = keep_last
        self.keep_every_n_rounds = keep_every_n_rounds
        self.largest_file = int(largest_file_gib * 1024**3)
        self.interrupted = False
        self._asked_to_end = False
        self._newest = 0  # round of the newest checkpoint that is known to be this run's
        self._unlogged: dict[str, Any] = {}
        self._previous_handlers: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for requests to end; put in order what the run before has left."""
        self._asked_to_end = self.interrupted = False
        self._newest = trainer.current_epoch
        if isinstance(io := trainer.strategy.checkpoint_io, SafetensorsCheckpointIO):
            io.largest_file = self.largest_file
        if trainer.is_global_zero:
            remove_leftovers(self.folder)
            for logger in trainer.loggers:
                if isinstance(logger, ResumableCSVLogger) and self._unlogged:
                    logger.go_on_after(self._unlogged["step"], self._unlogged["metrics"])
        if threading.current_thread() is threading.main_thread():
            for number in REQUESTS_TO_END:
                self._previous_handlers[number] = signal.signal(number, self._ask_to_end)

    def _ask_to_end(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True
        log.warning("%s: stopping after this round; send it again to stop now", signal.Signals(number).name)
        self._restore_handlers()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the round just done calls for it."""
        num_rounds = trainer.current_epoch + 1
        # One process being asked to end is enough for all of them, which must agree.
        if trainer.strategy.reduce_boolean_decision(self._asked_to_end, all=False):
            self.interrupted = trainer.should_stop = True
        if trainer.should_stop or num_rounds == trainer.max_epochs or num_rounds % self.every_n_rounds == 0:
            self._save(trainer, num_rounds)

    def _save(self, trainer: Trainer, num_rounds: int) -> None:
        path = self.folder / checkpoint_name(num_rounds)
        self._unlogged = unlogged_means(trainer)
        if trainer.is_global_zero:
            make_way(self.folder, num_rounds)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            clear_later(self.folder, self._newest, num_rounds)
            self._newest = num_rounds
            saved = list_checkpoints(self.folder)
            for old in superfluous(saved, self.keep_last, self.keep_every_n_rounds):
                trainer.strategy.remove_checkpoint(old)
        if self.interrupted:
            log.warning("interrupted after round %d, saved in %s; resume=auto continues", num_rounds, path)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The row of the round just done, whose means no logger has yet."""
        return {"unlogged": self._unlogged}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have them again."""
        self._unlogged = state_dict.get("unlogged", {})

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore_handlers()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers and log the last checkpoint."""
        self._restore_handlers()
        saved = list_checkpoints(self.folder)
        log.error(
            "stopped by %s; last checkpoint: %s", type(exception).__name__, saved[-1] if saved else "none yet"
        )

    def _restore_handlers(self) -> None:
        while self._previous_handlers:
            number, handler = self._previous_handlers.popitem()
            signal.signal(number, handler)


def unlogged_means(trainer: Trainer) -> dict[str, Any]:
    """What Lightning will log of a round once the callbacks have seen its end, and at which step.

    Args:
        trainer: At the end of a round; all processes have to call this, as it averages over them.
    """
    # Lightning has no public name for the metrics that are about to be logged.
    metrics = cast(Any, trainer)._logger_connector.metrics["log"]
    if not metrics:
        return {}
    values = {name: float(value) for name, value in metrics.items()} | {"epoch": float(trainer.current_epoch)}
    step = cast(Any, trainer).fit_loop.epoch_loop._batches_that_stepped - 1
    for logger in trainer.loggers:
        if isinstance(logger, ResumableCSVLogger):
            values = logger.row_with(values)
    return {"step": step, "metrics": values}
