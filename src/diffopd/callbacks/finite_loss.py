"""A guard that stops a training as soon as a loss is no number, before anything is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override


class NonFiniteLossError(RuntimeError):
    """A loss or metric that became nan or infinite."""


class FiniteLoss(Callback):
    """Stops the training when the loss of a step, or a logged loss, is nan or infinite.

    It looks at what ``training_step`` returns and at every logged metric that has a ``loss`` part in its
    name, such as ``train/loss/kl``; it keeps nothing between calls. Reading a loss waits for the device
    once a step.
    """

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the step just taken."""
        self._check(trainer, pl_module, _returned_loss(outputs))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the means over the round."""
        self._check(trainer, pl_module, {})

    def _check(self, trainer: Trainer, pl_module: LightningModule, returned: Mapping[str, float]) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        logged = {name: value for name, value in metrics.items() if "loss" in name.split("/")}
        losses = logged | dict(returned)
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            report = "\n".join(f"  {name} = {value:g}" for name, value in sorted((metrics | losses).items()))
            raise NonFiniteLossError(
                f"{type(pl_module).__name__}: {', '.join(broken)} is not finite in round "
                f"{trainer.current_epoch + 1} (optimiser step {trainer.global_step}).\n{report}\n"
                "Nothing of this round was saved; resume=auto goes on from the last checkpoint. Usual "
                "causes: a high learning rate (optimizer.lr), no gradient clipping, or half precision."
            )


def _returned_loss(outputs: Any) -> dict[str, float]:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return {"loss": float(loss)} if isinstance(loss, Tensor) else {}
