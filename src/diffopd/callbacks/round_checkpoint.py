"""Checkpoints at the end of a round, where a training can be cut and continued without a trace."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from diffopd.checkpoint.folder import checkpoint_name, list_checkpoints

log = logging.getLogger(__name__)


class RoundCheckpoint(Checkpoint):
    """Saves ``round_000010``, ``round_000020``, ... and keeps the newest.

    Checkpoints are taken only between rounds: every ``every_n_rounds``, after the last one, and after the
    current one when the process is asked to end (SIGTERM, Ctrl-C), which then stops the training. A
    second Ctrl-C stops at once. An error in the middle of a round saves nothing, as the state is no
    longer that of a whole number of rounds; the last checkpoint stands.

    Attributes:
        interrupted: Whether a signal stopped the training.
    """

    def __init__(self, *, folder: str, every_n_rounds: int, keep_last: int) -> None:
        """Configure where, how often and how many.

        Args:
            folder: Where the checkpoints go.
            every_n_rounds: Rounds between two checkpoints, at least 1.
            keep_last: Number of checkpoints to keep, at least 1; older ones are removed.

        Raises:
            ValueError: If a number is below 1.
        """
        for name, value in (("every_n_rounds", every_n_rounds), ("keep_last", keep_last)):
            if value < 1:
                raise ValueError(f"callbacks.round_checkpoint.{name} must be at least 1, got {value}")
        self.folder = Path(folder)
        self.every_n_rounds = every_n_rounds
        self.keep_last = keep_last
        self.interrupted = False
        self._asked_to_end = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for requests to end."""
        self._asked_to_end = self.interrupted = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._ask_to_end)

    def _ask_to_end(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True
        log.warning("%s: stopping after this round; once more to stop now", signal.Signals(number).name)
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
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for old in list_checkpoints(self.folder)[: -self.keep_last]:
                trainer.strategy.remove_checkpoint(old)
        if self.interrupted:
            log.warning("interrupted after round %d, saved in %s; resume=auto continues", num_rounds, path)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore_handlers()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back and say where to go on from."""
        self._restore_handlers()
        saved = list_checkpoints(self.folder)
        log.error(
            "stopped by %s; last checkpoint: %s", type(exception).__name__, saved[-1] if saved else "none yet"
        )

    def _restore_handlers(self) -> None:
        while self._previous_handlers:
            number, handler = self._previous_handlers.popitem()
            signal.signal(number, handler)
