"""Gaussian data, where the best velocity is known in closed form.

With clean data N(m, d^2) per element, the latent at sigma is N((1 - sigma) m, v) with
v = (1 - sigma)^2 d^2 + sigma^2, and the best velocity is affine in the latent. Every step is then affine too,
so the law of a rollout's latents is exactly Gaussian: two probes per step give its slope, the transition
gives its fresh noise, and mean and variance follow without Monte-Carlo error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from diffopd.sampler import TransitionSampler, sample, transition_at
from support.slow import slow_but

MakeSampler = Callable[..., TransitionSampler]
MEAN, DEVIATION = 1.5, 0.5


def best_velocity(mean: float, deviation: float) -> Callable[[Tensor, Tensor], Tensor]:
    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.double().view(-1, 1)
        variance = (1 - level) ** 2 * deviation**2 + level**2
        centred = latent - (1 - level) * mean
        clean = mean + (1 - level) * deviation**2 / variance * centred
        return level / variance * centred - clean

    return velocity


def laws(sampler: TransitionSampler, mean: float, deviation: float) -> Iterator[tuple[float, float, float]]:
    """Sigma, mean and variance of the latent after every step, for standard normal noise."""
    velocity, center, variance = best_velocity(mean, deviation), 0.0, 1.0
    for step in range(sampler.num_steps):
        probes = torch.tensor([[center], [center + 1]], dtype=torch.float64)
        transition = transition_at(sampler, step, probes, velocity(probes, sampler.sigma_at(step, probes)))
        center, shifted = transition.mean.flatten().tolist()
        variance = (shifted - center) ** 2 * variance + transition.std[0].item() ** 2
        yield transition.sigma_next[0].item(), center, variance


def errors(
    sampler: TransitionSampler, mean: float, deviation: float, below: float = 1.0
) -> tuple[float, float]:
    """Largest error of mean and of variance at the levels under ``below``."""
    found = [law for law in laws(sampler, mean, deviation) if law[0] < below]
    mean_error = max(abs(center - (1 - sigma) * mean) for sigma, center, _ in found)
    variance_error = max(
        abs(variance - (1 - sigma) ** 2 * deviation**2 - sigma**2) for sigma, _, variance in found
    )
    return mean_error, variance_error


LEVELS = [("flow", 0.0), ("flow", 0.3), ("flow", 0.7), ("flow", 1.0)]
LEVELS += [
    ("dance", 0.0),
    ("dance", 0.3),
    ("dance", 0.7),
    ("ddim", 0.0),
    ("ddim", 0.3),
    ("ddim", 0.7),
    ("ddim", 1.0),
    ("dpm1", 0.0),
]
QUICK = (("flow", 0.7), ("dance", 0.3), ("ddim", 1.0), ("dpm1", 0.0))


@pytest.mark.parametrize(("name", "noise_level"), slow_but(LEVELS, *QUICK))
def test_marginals_are_kept_at_every_noise_level(name: str, noise_level: float, make_sampler: MakeSampler):
    coarse, fine = (
        errors(make_sampler(name, num_steps=steps, noise_level=noise_level), MEAN, DEVIATION, below=0.5)
        for steps in (100, 400)
    )
    # The velocity is affine, so the mean is exact whatever the step; float64 rounding only.
    assert max(coarse[0], fine[0]) < 1e-12
    # First-order solvers: the variance (0.25 to 0.28 here) is approached, by half or more for a quarter step.
    assert fine[1] < 1.2e-2
    assert fine[1] < coarse[1] / 2


def test_capped_first_step_of_the_sde_adds_variance(make_sampler: MakeSampler):
    # It injects variance a^2 and scales the latent by 1 - a^2 / 2 however small the step:
    # (1 - a^2 / 2)^2 + a^2 = 1 + a^4 / 4. Later steps forget it, which the test above shows.
    sigma, _, variance = next(laws(make_sampler("flow", num_steps=800, noise_level=0.7), MEAN, DEVIATION))
    excess = variance - (1 - sigma) ** 2 * DEVIATION**2 - sigma**2
    assert excess == pytest.approx(0.7**4 / 4, rel=0.01)


@pytest.mark.parametrize("name", ["ddim", "cps"])
@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_renoising_is_exact_when_the_clean_prediction_is_certain(
    name: str, noise_level: float, make_sampler: MakeSampler
):
    sampler = make_sampler(name, num_steps=10, noise_level=noise_level)
    assert max(errors(sampler, MEAN, deviation=0.0)) < 1e-12


def test_cps_loses_variance_of_uncertain_data(make_sampler: MakeSampler):
    sampler = make_sampler("cps", num_steps=200, noise_level=0.7)
    final_variance = [*laws(sampler, MEAN, DEVIATION)][-1][2]
    assert final_variance < 0.75 * DEVIATION**2


def test_dance_spoils_a_certain_clean_prediction_at_the_end_of_a_coarse_grid(make_sampler: MakeSampler):
    # Noise of 0.156 arrives at level 0.009, where the model reads it as 18 units of noise; the last step
    # takes off 0.045 of that, five times what is there. docs/sampler.md warns of it.
    deviations = [
        [*laws(make_sampler("dance", noise_level=level), MEAN, deviation=0.0)][-1][2] ** 0.5
        for level in (0.0, 0.1, 0.3)
    ]
    assert deviations == pytest.approx([0.0, 0.031, 0.806], abs=5e-4)


def variance_errors(sampler: TransitionSampler) -> tuple[float, float]:
    """Error of an ODE rollout's variance: the largest at sigma above 0.2, and the final one."""
    probes = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    trajectory = sample(sampler, best_velocity(MEAN, DEVIATION), probes, lambda step: probes)
    sigmas, variances = trajectory.sigmas.double(), trajectory.latents.diff(dim=1).square().flatten()
    found = (variances - (1 - sigmas) ** 2 * DEVIATION**2 - sigmas**2).abs()
    return found[sigmas > 0.2].max().item(), found[-1].item()


def test_second_order_solver_is_of_second_order(make_sampler: MakeSampler):
    first, second = (variance_errors(make_sampler(name))[0] for name in ("flow", "dpm2"))
    assert second < first / 3
    # Four times as many steps: a first-order solver gains a factor of 4, a second-order one up to 16.
    few, many = (variance_errors(make_sampler("dpm2", num_steps=steps))[0] for steps in (40, 160))
    assert many < few / 8


def test_second_order_solver_overshoots_at_the_end_of_a_coarse_grid(make_sampler: MakeSampler):
    # From sigma 0.278 to 0.009 the log signal-to-noise ratio grows five times as much as in the step before:
    # extrapolating that far does harm. docs/sampler.md warns of it.
    assert variance_errors(make_sampler("dpm2"))[1] > variance_errors(make_sampler("flow"))[1]
    assert (
        variance_errors(make_sampler("dpm2", num_steps=80))[1]
        < variance_errors(make_sampler("flow", num_steps=80))[1]
    )


@pytest.mark.parametrize(("name", "noise_level"), [("flow", 0.0), ("flow", 0.7), ("ddim", 1.0), ("cps", 0.5)])
def test_sampled_latents_follow_the_law(name: str, noise_level: float, make_sampler: MakeSampler):
    count, generator = 50_000, torch.Generator().manual_seed(0)

    def draw(step: int = -1) -> Tensor:
        return torch.randn(count, 1, generator=generator, dtype=torch.float64)

    sampler = make_sampler(name, noise_level=noise_level)
    clean = sample(sampler, best_velocity(MEAN, DEVIATION), draw(), draw).clean
    _, mean, variance = [*laws(sampler, MEAN, DEVIATION)][-1]
    # Four standard errors of the estimates of mean and variance.
    assert abs(clean.mean().item() - mean) < 4 * math.sqrt(variance / count)
    assert abs(clean.var().item() - variance) < 4 * variance * math.sqrt(2 / count)
