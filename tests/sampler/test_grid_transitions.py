"""What every step of a rollout weighs, read off the grid before anything is rolled out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffopd.sampler import FlowSampler, NoiseWindow, TransitionSampler

MakeSampler = Callable[..., TransitionSampler]
CHOICES = [
    ("flow", 0.0),
    ("flow", 0.7),
    ("ddim", 0.7),
    ("cps", 0.7),
    ("dance", 0.3),
    ("dpm1", 0.0),
    ("dpm2", 0.0),
]


def assert_same_steps(sampler: TransitionSampler) -> None:
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    visited = list(sampler.rollout(lambda latent, sigma: latent.cos(), start, lambda step: start))
    found = sampler.grid_transitions()
    assert len(found) == len(visited)
    for transition, other in zip(found, visited, strict=True):
        assert transition.latent.shape == (1, 1, 1, 1)
        assert transition.latent.device.type == "cpu"
        for name in ("step", "num_steps", "stochastic"):
            assert getattr(transition, name) == getattr(other, name)
        for name in ("sigma", "sigma_next", "std", "std_released", "coefficient"):
            assert torch.equal(getattr(transition, name), getattr(other, name)[:1])


@pytest.mark.parametrize(("name", "noise_level"), CHOICES)
def test_steps_are_those_of_a_rollout(name: str, noise_level: float, make_sampler: MakeSampler):
    assert_same_steps(make_sampler(name, noise_level=noise_level))


def test_slopes_of_the_second_choice_of_dpm2(make_sampler: MakeSampler):
    assert_same_steps(make_sampler("dpm2", loss_coefficient="first_order"))


def test_noise_in_a_window_is_seen():
    noisy = FlowSampler(num_steps=6, noise_level=0.7, shift=3.0, guidance_scale=1.0)
    window = NoiseWindow(noisy, [1, 2])
    assert_same_steps(window)
    assert [step.stochastic for step in window.grid_transitions()] == [False, True, True, False, False, False]
