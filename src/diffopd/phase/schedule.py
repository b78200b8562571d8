"""Learning-rate schedule of the phases that train the embedded model from nothing."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import lightning
import torch


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int, trainer: lightning.Trainer) -> Any:
    """Lightning's scheduler entry: linear warm-up, then a half cosine to 0 at the end of training."""
    factor = partial(_warmup_cosine_factor, warmup_steps, int(trainer.estimated_stepping_batches))
    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}


def _warmup_cosine_factor(warmup_steps: int, total_steps: int, step: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))
