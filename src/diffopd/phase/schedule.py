"""How a learning rate changes over a run."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, get_args

import lightning
import torch

Schedule = Literal["constant", "linear", "cosine"]
CONSTANT: Schedule = "constant"
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
"""After its warm-up a learning rate stays, or falls to 0 by the end, evenly or as half a cosine."""


def learning_rate_factor(schedule: Schedule, step: int, *, total: int, warmup: int) -> float:
    """Share of its peak that a learning rate has.

    Args:
        schedule: One of :data:`SCHEDULES`.
        step: 0 for the first.
        total: Steps of the run.
        warmup: Steps in which it rises evenly first, 0 for none.

    Examples:
        >>> [learning_rate_factor("linear", step, total=6, warmup=2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == CONSTANT:
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int, trainer: lightning.Trainer) -> Any:
    """Lightning's scheduler entry: linear warm-up, then a half cosine to 0 at the end of training."""
    total = int(trainer.estimated_stepping_batches)
    factor = partial(learning_rate_factor, "cosine", total=total, warmup=warmup_steps)
    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}
