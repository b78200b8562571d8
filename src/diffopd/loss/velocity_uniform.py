"""Plain velocity matching: every step counts the same."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition


def velocity_uniform_weight(coefficient: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Weight 1 for every sample."""
    return torch.ones_like(coefficient)


@final
class VelocityUniform(TransitionMatching):
    """The squared velocity gap itself, with any sampler."""

    name: ClassVar[str] = "velocity_uniform"

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`velocity_uniform_weight`."""
        return velocity_uniform_weight(student.coefficient)
