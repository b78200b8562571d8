"""The slope that dpm2's transitions carry for the distillation losses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffopd.flow import Step, ddim, dpm2
from diffopd.sampler import DPM2Sampler, TransitionSampler
from diffopd.types import Transition

MakeSampler = Callable[..., TransitionSampler]


def student(latent: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(latent) + sigma.view(-1, 1, 1, 1)


def teacher(latent: Tensor, sigma: Tensor) -> Tensor:
    return torch.sin(latent) - 0.3


def rollout(sampler: TransitionSampler) -> list[Transition]:
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return list(sampler.rollout(student, noise, lambda step: noise))


def step_with_history(now: Transition, before: Transition | None, velocity: Tensor) -> Step:
    """The step from the formulas: the student's previous clean prediction serves both models."""
    args = now.latent, velocity, now.sigma, now.sigma_next
    if before is None or now.step == now.num_steps - 1:
        return ddim(*args, noise_level=0)
    clean = before.latent - before.sigma.view(-1, 1, 1, 1) * before.velocity
    return dpm2(*args, previous_clean=clean, sigma_previous=before.sigma)


def test_taken_is_the_distance_of_the_means_with_a_shared_history(make_sampler: MakeSampler):
    steps = rollout(make_sampler("dpm2", loss_coefficient="taken"))
    for now, before in zip(steps, [None, *steps], strict=False):
        target = teacher(now.latent, now.sigma)
        other = step_with_history(now, before, target)
        expected = now.coefficient.view(-1, 1, 1, 1) * (now.velocity - target)
        torch.testing.assert_close(now.mean - other.mean, expected, rtol=0, atol=1e-12)
    # Worked from the shift-3 grid for step 8, which is five times as long in log SNR as the one before.
    assert steps[8].coefficient[0].item() == pytest.approx(-0.890342, rel=1e-5)
    assert abs(steps[8].coefficient[0].item()) > 3 * (steps[8].sigma - steps[8].sigma_next)[0].item()


def test_first_order_is_the_length_of_the_step(make_sampler: MakeSampler):
    for transition in rollout(make_sampler("dpm2", loss_coefficient="first_order")):
        assert torch.equal(
            transition.coefficient,
            (transition.sigma_next.double() - transition.sigma.double()).to(transition.coefficient.dtype),
        )


def test_the_rollout_does_not_depend_on_it(make_sampler: MakeSampler):
    taken, first_order = (
        rollout(make_sampler("dpm2", loss_coefficient=choice)) for choice in ("taken", "first_order")
    )
    for one, other in zip(taken, first_order, strict=True):
        assert torch.equal(one.next_latent, other.next_latent)
        assert torch.equal(one.mean, other.mean)


@pytest.mark.usefixtures("unchecked_shapes")
def test_another_choice_is_refused():
    with pytest.raises(ValueError, match=r"sampler.loss_coefficient must be one of taken, first_order, got"):
        DPM2Sampler(num_steps=10, noise_level=0, shift=3, guidance_scale=1, loss_coefficient="euler")
