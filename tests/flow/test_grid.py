from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from diffopd.flow import ConstantShift, DoubleShift, EmpiricalShift, ResolutionShift
from diffopd.sampler import FlowSampler
from diffopd.sampler.window import NoiseWindow

FLUX = {"least_tokens": 256, "most_tokens": 4096, "least_mu": 0.5, "most_mu": 1.15, "terminal": None}
QWEN = {"least_tokens": 256, "most_tokens": 8192, "least_mu": 0.5, "most_mu": 0.9, "terminal": 0.02}
# float32 against the scheduler's own float32.
CLOSE = {"rtol": 0, "atol": 1e-6}


def scheduler_levels(num_steps, mu=None, **settings):
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / num_steps, num_steps).tolist(), mu=mu)
    return scheduler.sigmas


@pytest.mark.parametrize("num_steps", [2, 4, 28])
@pytest.mark.parametrize("image_size", [256, 512, 1024, 1328])
def test_the_resolution_shift_is_the_schedulers(num_steps, image_size):
    tokens = (image_size // 16) ** 2
    for settings, most, largest in ((FLUX, 4096, 1.15), (QWEN, 8192, 0.9)):
        grid = ResolutionShift(image_size=image_size, pixels_per_token=16, **settings)
        mu = calculate_shift(tokens, 256, most, 0.5, largest)
        theirs = scheduler_levels(
            num_steps, mu, use_dynamic_shifting=True, shift_terminal=settings["terminal"]
        )
        torch.testing.assert_close(grid.levels(num_steps), theirs, **CLOSE)
        assert grid.shift(num_steps) == pytest.approx(math.exp(mu))


@pytest.mark.parametrize("num_steps", [1, 4, 10, 50])
@pytest.mark.parametrize("image_size", [512, 1024, 1280])  # the last has more than 4300 tokens
def test_the_empirical_shift_is_flux_2s(num_steps, image_size):
    mu = compute_empirical_mu((image_size // 16) ** 2, num_steps)
    grid = EmpiricalShift(image_size=image_size, pixels_per_token=16)
    theirs = scheduler_levels(num_steps, mu, use_dynamic_shifting=True)
    torch.testing.assert_close(grid.levels(num_steps), theirs, **CLOSE)


def test_a_constant_shift_by_hand():
    # 1, 3/4, 1/2, 1/4 at shift 3: 3s / (1 + 2s).
    levels = ConstantShift(shift=3.0).levels(4)
    assert levels.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_the_last_level_is_the_terminal_one():
    levels = ResolutionShift(image_size=512, pixels_per_token=16, **QWEN).levels(10)
    assert levels[[0, -2, -1]].tolist() == pytest.approx([1, 0.02, 0])
    assert ResolutionShift(image_size=512, pixels_per_token=16, **QWEN).levels(1).tolist() == [1, 0]


def test_samplers_take_a_rule_in_place_of_a_shift():
    grid = EmpiricalShift(image_size=512, pixels_per_token=16)
    sampler = FlowSampler(num_steps=4, noise_level=0.7, shift=grid, guidance_scale=1.0)
    assert torch.equal(sampler.sigmas(), grid.levels(4))
    assert sampler.shift == grid.shift(4)
    assert torch.equal(NoiseWindow(sampler, [0]).sigmas(), grid.levels(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 500}, r"model.image_size=500 must be a multiple of model.shift.pixels_per_token=16"),
        ({"least_tokens": 4096}, r"least_tokens=4096 must be above 0 and below model.shift.most_tokens=4096"),
        ({"terminal": 1.0}, r"model.shift.terminal=1.0 must be in \(0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ResolutionShift(**{"image_size": 512, "pixels_per_token": 16, **FLUX, **change})


def test_a_shift_that_is_no_number_is_refused(unchecked_shapes):
    with pytest.raises(ValueError, match=r"sampler\.shift must be a finite number above 0, got three"):
        FlowSampler(num_steps=4, noise_level=0.0, shift="three", guidance_scale=1.0)  # type: ignore
    with pytest.raises(ValueError, match=r"model\.shift\.shift=0 must be a finite number above 0"):
        ConstantShift(shift=0)


def test_z_image_turbos_four_levels_are_every_second_of_its_eight():
    """The numbers of the stock pipeline's grid at shift 3, and of D-OPSD's release with K = 4."""
    grid = ConstantShift(shift=3.0)
    eight, four = grid.levels(8), grid.levels(4)
    expected = [1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3, 0]
    assert eight.tolist() == pytest.approx(expected, abs=5e-5)
    assert four.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0], abs=1e-6)
    torch.testing.assert_close(four, eight[::2], rtol=0, atol=0)


def test_the_released_list_of_eight_levels():
    released = [1, 0.9769, 0.9478, 0.9099, 0.8586, 0.7853, 0.6719, 0.4732, 0]
    levels = DoubleShift(shift=6.0).levels(8)
    assert levels.tolist() == pytest.approx(released, abs=5e-5)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    scheduler.set_timesteps(9)
    torch.testing.assert_close(levels[:-1], scheduler.sigmas[:8], **CLOSE)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        DoubleShift(shift=6.0).levels(0)
