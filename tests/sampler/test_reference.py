from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffopd.sampler import TransitionSampler, sample


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Tensor]:
    with np.load(golden_dir / "deterministic_trajectories.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("num_steps", [10, 25])
@pytest.mark.parametrize("name", ["flow", "ddim", "dpm1", "dpm2"])
def test_trajectory_equals_the_reference(
    name: str,
    num_steps: int,
    golden: dict[str, Tensor],
    make_sampler: Callable[..., TransitionSampler],
    refuse_noise: Callable[[int], Tensor],
):
    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        mixed = torch.einsum("ij,bjhw->bihw", golden["A"], latent)
        return mixed + golden["b"].view(-1, 1, 1) * sigma.view(-1, 1, 1, 1) + golden["c"].view(-1, 1, 1)

    trajectory = sample(make_sampler(name, num_steps=num_steps), velocity, golden["noise"], refuse_noise)
    expected = golden[f"{name}_{num_steps}"]
    # Relative to the largest value; rounding differences of float32 grow over the steps.
    assert (trajectory.latents - expected).abs().max() < 1e-5 * expected.abs().max()
    assert trajectory.sigmas.tolist()[::num_steps] == [1.0, 0.0]
