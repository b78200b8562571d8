"""How much of an update is signal, and how much the chance of its samples."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from diffopd.strategy.gradients import flat_gradient


class GradientSignal(Callback):
    """Logs ``train/gradient_signal``: the share of a gradient that other samples would give, too.

    With ``g`` and ``h`` the gradients of the same update of two rounds in a row, whose samples are
    independent, ``<g, h>`` estimates the squared norm of the expected gradient and ``(|g|^2 + |h|^2) / 2``
    that plus the variance. The value is the ratio of their sums over ``num_rounds`` rounds: 1 for a gradient
    without noise, about 0, and by chance below it, for nothing but noise. Weights move between two rounds; it
    takes them to have stayed. Rounds are compared with the last one of the same tasks, so that tasks in turn
    do not mix.

    With ``B`` samples a round and a share ``s``, the gradient noise scale is ``B (1 - s) / s`` samples: with
    that many, half of an update would be signal.

    Of several optimizers the first, the student's, is looked at; its gradient is taken as the step gets it,
    averaged over processes. It keeps one float32 vector of the adapter's size for each update of a round (and
    each set of tasks in turn), in checkpoints, too: 75 MB for Stable Diffusion 3.5 and rank 32.

    References:
        McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162, Appendix A.
    """

    def __init__(self, *, num_rounds: int) -> None:
        """Say over how many rounds a value is estimated.

        Raises:
            ValueError: If they are fewer than 2.
        """
        if num_rounds < 2:
            raise ValueError(f"callbacks.gradient_signal.num_rounds must be at least 2, got {num_rounds}")
        self.num_rounds = num_rounds
        self._tasks = ""
        self._now: list[Tensor] = []
        self._before: dict[str, list[Tensor]] = {}
        self._sums: Tensor | None = None  # of products, and of squared norms, over the pairs so far

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the round's tasks."""
        self._tasks, self._now = ",".join(sorted(set(getattr(batch, "tasks", ())))), []

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the gradient, and compare it with the last round's."""
        if optimizer is not trainer.optimizers[0]:
            return
        gradient = flat_gradient([p for group in optimizer.param_groups for p in group["params"]]).float()
        before = self._before.get(self._tasks, [])
        if len(self._now) < len(before):
            other = before[len(self._now)].to(gradient.device)
            pair = torch.stack([gradient @ other, (gradient @ gradient + other @ other) / 2])
            self._sums = pair if self._sums is None else self._sums.to(pair.device) + pair
        self._now.append(gradient)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep this round's gradients for the next of its tasks."""
        self._before[self._tasks] = self._now

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share, every so many rounds."""
        if (trainer.current_epoch + 1) % self.num_rounds or self._sums is None:
            return
        products, squares = self._sums.unbind()
        share = products / squares.clamp_min(torch.finfo(squares.dtype).tiny)
        pl_module.log("train/gradient_signal", share, on_step=False, on_epoch=True, batch_size=1)
        self._sums = None

    @override
    def state_dict(self) -> dict[str, Any]:
        """The last gradients and the sums, so that a resumed run logs what an uninterrupted one does."""
        return {"before": self._before, "sums": self._sums}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from them."""
        self._before, self._sums = state_dict["before"], state_dict["sums"]
