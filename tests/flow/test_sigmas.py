from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffopd.flow import shift_sigma, sigma_grid


@pytest.mark.parametrize("num_steps", [10, 25, 40])
def test_grid_equals_the_reference_bitwise(num_steps: int, golden_dir: Path):
    with np.load(golden_dir / "sigma_grids_shift3.npz") as arrays:
        expected = torch.from_numpy(arrays[f"sigmas_{num_steps}"])
    assert torch.equal(sigma_grid(num_steps, 3.0), expected)


def test_shift_by_hand():
    # 3 * 0.5 / (1 + 2 * 0.5) = 0.75; the ends stay.
    assert torch.equal(shift_sigma(torch.tensor([0.0, 0.5, 1.0]), 3), torch.tensor([0.0, 0.75, 1.0]))


def test_one_step_goes_from_noise_to_clean():
    assert sigma_grid(1, 3.0).tolist() == [1.0, 0.0]


def test_last_level_above_zero_does_not_depend_on_the_number_of_steps():
    # The smallest training level 0.001, shifted twice by 3: 9 / 1008.
    assert sigma_grid(7, 3)[-2].item() == pytest.approx(9 / 1008, rel=1e-5)
    assert sigma_grid(70, 3)[-2].item() == pytest.approx(9 / 1008, rel=1e-5)


def test_out_of_range_is_refused():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        sigma_grid(0, 3.0)
    with pytest.raises(ValueError, match="shift must be above 0, got -1"):
        sigma_grid(10, -1.0)
