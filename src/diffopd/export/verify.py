"""Does what was written answer as the adapter does? One transformer is in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffopd.model import PipelineModel
from diffopd.randomness import normal_rows
from diffopd.types import Conditioning

SIGMAS = (0.95, 0.6, 0.2)
"""Noise at which velocities are compared: nearly pure noise, the middle, nearly clean."""
PROMPT = "a photo of a red circle"
MOST_ROUNDING = 0.5
"""Largest share of an adapter's effect that rounding may be, for a comparison to say anything."""
_READ_BACK = "read_back"


@dataclass(frozen=True)
class States:
    """Where velocities are compared; made first, as the text encoders have to be there for it.

    Attributes:
        latent: Noise, a row for each of ``SIGMAS``.
        sigma: Noise levels.
        conditioning: The encoding of ``PROMPT``.
    """

    latent: Tensor
    sigma: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class Verification:
    """Velocities of the base, of the adapter and of what was read back, at one and the same states.

    Attributes:
        difference: Largest absolute difference of what was read back from what it should answer: the adapter,
            or in half precision the adapter rounded as the format's reader rounds it.
        effect: Largest absolute difference of the adapter from the base.
        rounding: Largest absolute difference of the rounded adapter from the adapter; 0 in fp32.
    """

    difference: float
    effect: float
    rounding: float

    @property
    def ratio(self) -> float:
        """``difference / effect``."""
        return self.difference / self.effect

    def __str__(self) -> str:
        told = (
            f"largest difference of velocities {self.difference:.1e}, where the adapter changes them by up "
            f"to {self.effect:.1e}"
        )
        if self.rounding:
            told += f" and rounding to the base's precision by up to {self.rounding:.1e}"
        return told


@torch.no_grad()
def states(model: PipelineModel) -> States:
    """The states of the comparison, on the model's device."""
    rows = range(len(SIGMAS))
    latent = normal_rows(0, "export/verify", 0, rows, model.latent_shape).to(model.device)
    sigma = torch.tensor(SIGMAS, device=model.device)
    return States(latent, sigma, model.encode([PROMPT] * len(SIGMAS)))


@torch.no_grad()
def velocities(model: PipelineModel, at: States, adapter: str | None = None) -> Tensor:
    """Velocities under one adapter, or of the base, in fp32 on the CPU."""
    return model.velocity(at.latent, at.sigma, at.conditioning, adapter).float().cpu()


def velocities_of(model: PipelineModel, at: States, transformer: nn.Module) -> Tensor:
    """Velocities of another transformer of the same architecture, in the model's place."""
    model.backbones.add(_READ_BACK, transformer)
    try:
        return velocities(model, at, _READ_BACK)
    finally:
        model.backbones.remove(_READ_BACK)


def release(model: PipelineModel) -> None:
    """Give the memory of the model's own transformer back; its architecture stays, without weights."""
    own: Any = model.transformer
    own.to("meta")


def largest(difference: Tensor) -> float:
    """Largest absolute entry."""
    return float(difference.abs().max())


def check_effect(effect: float, setting: str) -> None:
    """An adapter that changes nothing is not worth a file.

    Raises:
        ValueError: If it does not change a single velocity.
    """
    if effect == 0:
        raise ValueError(
            f"{setting}: this adapter changes no velocity at all, like one before its first update. Was it "
            "the average of a run with fewer updates than phase.ema.update_interval? Train longer, or export "
            "the trained weights themselves: set callbacks.adapter_export.adapter=student in the run"
        )
