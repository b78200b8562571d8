from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from diffopd.sampler import (
    CPSSampler,
    DanceSampler,
    DDIMSampler,
    DPM1Sampler,
    DPM2Sampler,
    FlowSampler,
    TransitionSampler,
)

CLASSES = {
    "flow": FlowSampler,
    "ddim": DDIMSampler,
    "cps": CPSSampler,
    "dance": DanceSampler,
    "dpm1": DPM1Sampler,
    "dpm2": DPM2Sampler,
}

MakeSampler = Callable[..., TransitionSampler]


@pytest.fixture(scope="session")
def make_sampler() -> MakeSampler:
    """Build a sampler by its config name, with the shift-3 grid; dpm2 with the slope of the step taken."""

    def make(
        name: str, *, num_steps: int = 10, noise_level: float = 0.0, **settings: str
    ) -> TransitionSampler:
        if name == "dpm2":
            settings = {"loss_coefficient": "taken", **settings}
        return CLASSES[name](
            num_steps=num_steps, noise_level=noise_level, shift=3.0, guidance_scale=1.0, **settings
        )

    return make


@pytest.fixture(scope="session")
def refuse_noise() -> Callable[[int], Tensor]:
    """Fresh noise for rollouts that must not ask for any."""

    def refuse(step: int) -> Tensor:
        raise AssertionError(f"step {step} is deterministic and asked for fresh noise")

    return refuse
