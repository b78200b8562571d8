"""What a loss says of one transition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diffopd.types.rollout import Transition


@dataclass(frozen=True)
class LossTerm:
    """Per-sample loss and what to log about it.

    Attributes:
        value: One loss per sample; the phase averages (or sums) over samples, steps and tasks.
        metrics: Detached tensors of one value per sample, e.g. ``{"kl_nats": ...}``.
    """

    value: Float[Tensor, " batch"]
    metrics: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)


@runtime_checkable
class TransitionLoss(Protocol):
    """A distillation loss at one state the student visited."""

    def __call__(self, student: Transition, teacher_velocity: Tensor) -> LossTerm:
        """Loss per sample; ``teacher_velocity`` is treated as a constant."""
        ...
