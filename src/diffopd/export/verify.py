"""Does what was written answer as the adapter does?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffopd.model import PipelineModel
from diffopd.randomness import normal_rows

SIGMAS = (0.95, 0.6, 0.2)
"""Noise at which velocities are compared: nearly pure noise, the middle, nearly clean."""
PROMPT = "a photo of a red circle"
_READ_BACK = "read_back"


@dataclass(frozen=True)
class Verification:
    """Velocities of the base, of the adapter and of what was read back, at one and the same states.

    Attributes:
        difference: Largest absolute difference of what was read back from the adapter.
        effect: Largest absolute difference of the adapter from the base.
    """

    difference: float
    effect: float

    @property
    def ratio(self) -> float:
        """``difference / effect``; 0 where both are 0."""
        if self.effect == 0:
            return 0.0 if self.difference == 0 else float("inf")
        return self.difference / self.effect

    def __str__(self) -> str:
        return (
            f"largest difference of velocities {self.difference:.1e}, where the adapter changes them by up "
            f"to {self.effect:.1e}"
        )


@torch.no_grad()
def verify(model: PipelineModel, name: str, read_back: nn.Module) -> Verification:
    """Compare a transformer with an adapter on the model.

    Args:
        model: Holds the adapter.
        name: Which one.
        read_back: What should answer like it.
    """
    rows = range(len(SIGMAS))
    latent = normal_rows(0, "export/verify", 0, rows, model.latent_shape).to(model.device)
    given: Any = (latent, torch.tensor(SIGMAS, device=model.device), model.encode([PROMPT] * len(SIGMAS)))
    base, adapted = model.velocity(*given), model.velocity(*given, name)
    model.backbones.add(_READ_BACK, read_back)
    try:
        found = model.velocity(*given, _READ_BACK)
    finally:
        model.backbones.remove(_READ_BACK)
    return Verification(
        difference=float((found - adapted).abs().max()), effect=float((adapted - base).abs().max())
    )
