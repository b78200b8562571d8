"""A round done again from what was saved of it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from typing_extensions import override

from diffopd.non_finite.error import NonFiniteError
from diffopd.non_finite.record import check_gradient
from diffopd.non_finite.report import Report
from diffopd.reward.checked import RewardError


class _AllFiniteError(Exception):
    """Ends a replay in which the update in question has a finite gradient."""


def replay(
    trainer: Trainer, phase: LightningModule, data: LightningDataModule, report: Report, state: Any
) -> NonFiniteError | None:
    """Do a reported round again, up to the update in question, applying none.

    Samples, noise and prompts are those of the round, as all draws follow from the seed, the round and the
    samples' numbers. Updates that were applied in the round before are put in place from what was saved.

    Args:
        trainer: A fresh one, whose last round is the one in question.
        phase: As built from the run's config.
        data: Likewise.
        report: What was found.
        state: What was saved with it.

    Returns:
        What was not finite this time; None if everything was.
    """
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    callbacks.append(_Replay(report, state))
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = report.round - 1
    try:
        trainer.fit(phase, data)
    except NonFiniteError as error:
        return error
    except RewardError as error:
        if not error.non_finite:
            raise
        return NonFiniteError("reward", str(error))
    except _AllFiniteError:
        return None
    return None


class _Replay(Callback):
    """Puts the weights in place as they were, and holds every update back."""

    def __init__(self, report: Report, state: Any) -> None:
        self.report, self.state = report, state
        self._checked, self._batch = 0, 0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load what the round began with."""
        phase: Any = pl_module
        phase.on_load_checkpoint(self.state)
        phase.load_state_dict({**self.state["state_dict"], **self.state["start"]}, strict=False)
        if hasattr(phase, "clip_gradient"):
            phase.clip_gradient = self._held_back(phase, phase.clip_gradient)
        else:
            phase.training_step = self._one_batch(phase, phase.training_step)

    def _held_back(self, phase: Any, clip: Any) -> Any:
        def clip_gradient(policy: Any) -> torch.Tensor:
            if self._checked == self.report.update:
                clip(policy)
                raise _AllFiniteError
            self._checked += 1
            for parameter in phase.parameters():
                parameter.grad = None
            if self._checked == self.report.update:
                phase.load_state_dict(self.state["state_dict"], strict=False)
            phase.record.check(torch.zeros(()))
            return torch.zeros((), device=phase.device)

        return clip_gradient

    def _one_batch(self, phase: LightningModule, step: Any) -> Any:
        def training_step(batch: Any, batch_idx: int) -> Any:
            self._batch = batch_idx
            if batch_idx == self.report.batch:
                return step(batch, batch_idx)
            return next(p for p in phase.parameters() if p.requires_grad).sum() * 0

        return training_step

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient of a phase that leaves its updates to Lightning."""
        if not pl_module.automatic_optimization:
            return
        if self._batch == self.report.batch:
            check_gradient(optimizer)
            raise _AllFiniteError
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
