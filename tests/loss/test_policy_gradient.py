"""The clipped policy gradient: ratio, clip and reference pull, worked by hand and against densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffopd.flow import log_prob
from diffopd.loss import (
    FlowGRPO,
    GRPOGuard,
    clipped_surrogate,
    flow_grpo_log_ratio,
    policy_step,
    ratio_norm,
    reference_kl,
    step_balance,
)
from diffopd.loss.policy_gradient import StoredStep
from diffopd.sampler import CPSSampler, FlowSampler
from diffopd.types import Transition

MakeTransitions = Callable[..., list[Transition]]
COMMON = {
    "reduction": "mean",
    "clip_low": 1e-4,
    "clip_high": 1e-4,
    "advantage_clip": 5.0,
    "kl_weight": 0.0,
    "kl_variance": "exact",
}


def flow_grpo(**changes):
    return FlowGRPO(**{**COMMON, "density": "gaussian", **changes})


def guard(**changes):
    return GRPOGuard(**{**COMMON, "balance_steps": True, **changes})


def moved(step: int, shift: float, noise_level: float = 0.7) -> tuple[Transition, Tensor]:
    """A stored transition seen by a policy whose velocity moved by ``shift``, and the old velocity."""
    generator = torch.Generator().manual_seed(step)
    sampler = FlowSampler(num_steps=10, noise_level=noise_level, shift=3.0, guidance_scale=1.0)
    latent, old, noise = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(3))
    drawn = sampler.transition(step, latent, old, noise=noise)
    new = (old + shift * torch.randn(old.shape, generator=generator)).requires_grad_()
    return sampler.transition(step, latent, new, next_latent=drawn.next_latent), old


def test_the_noise_that_was_drawn_is_recovered():
    transition, old = moved(4, 0.3)
    generator = torch.Generator().manual_seed(4)
    *_, noise = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(3))
    assert torch.allclose(policy_step(transition, old).noise, noise, atol=1e-5)


@pytest.mark.parametrize("step", [0, 4, 8])
def test_flow_grpo_ratio_is_the_ratio_of_the_densities(step: int):
    transition, old = moved(step, 0.05)
    mean_old = transition.mean - policy_step(transition, old).drift
    for reduction in ("mean", "sum"):
        new, before = (
            log_prob(
                transition.next_latent.double(), mean.double(), transition.std.double(), reduction=reduction
            )
            for mean in (transition.mean, mean_old)
        )
        ours = flow_grpo_log_ratio(policy_step(transition, old), density="gaussian", reduction=reduction)
        assert torch.allclose(ours.double(), new - before, rtol=1e-3, atol=1e-6)


def test_squared_distance_is_the_released_cps_density():
    generator = torch.Generator().manual_seed(0)
    sampler = CPSSampler(num_steps=10, noise_level=0.8, shift=3.0, guidance_scale=1.0)
    latent, old, new, noise = (torch.randn(2, 2, 3, 3, generator=generator) for _ in range(4))
    drawn = sampler.transition(3, latent, old, noise=noise)
    transition = sampler.transition(3, latent, new, next_latent=drawn.next_latent)
    expected = -(drawn.next_latent - transition.mean).square().mean((1, 2, 3)) + (
        drawn.next_latent - drawn.mean
    ).square().mean((1, 2, 3))
    ours = flow_grpo_log_ratio(policy_step(transition, old), density="squared_distance", reduction="mean")
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("loss", [flow_grpo(), guard()])
@pytest.mark.parametrize("step", range(10))
def test_the_ratio_of_a_policy_to_itself_is_one(loss, step: int):
    transition, old = moved(step, 0.0)
    term = loss(transition, old, None, torch.ones(4))
    assert torch.equal(term.metrics["ratio"], torch.ones(4))
    assert not term.metrics["clipped"].any()
    term.value.sum().backward()
    assert transition.velocity.grad.abs().max() > 0


@pytest.mark.parametrize("shift", [0.01, 0.1, 1.0])
def test_guard_ratio_is_centred_whatever_the_drift_and_flow_grpo_ratio_is_not(shift: float):
    """Over the rollout's noise the log-ratio of Guard has mean 0, of Flow-GRPO -drift^2 / (2 std^2)."""
    samples, size = 20_000, 8
    generator = torch.Generator().manual_seed(0)
    drift = torch.full((samples, size), shift)
    noise = torch.randn(samples, size, generator=generator)
    step = StoredStep(drift, noise, torch.full((samples,), 0.5))
    centred = ratio_norm(step, reduction="mean")
    error = shift / math.sqrt(size * samples)
    assert abs(centred.mean()) < 4 * error
    assert centred.std() == pytest.approx(shift / math.sqrt(size), rel=0.02)
    biased = flow_grpo_log_ratio(step, density="gaussian", reduction="mean")
    assert biased.mean() == pytest.approx(-(shift**2) / (2 * 0.25), abs=4 * error / 0.5)


def test_guard_by_hand_with_and_without_balance():
    """drift = 0.1, noise = 2, dt = -0.05, advantage = -1: ratio e^0.2, unclipped as it is the worse side."""
    velocity = torch.tensor([[1.5]])
    transition = Transition(
        step=0,
        num_steps=2,
        latent=torch.zeros(1, 1),
        sigma=torch.tensor([0.5]),
        sigma_next=torch.tensor([0.45]),
        velocity=velocity,
        mean=torch.tensor([[0.1]]),
        std=torch.tensor([0.25]),
        std_released=torch.tensor([1.0]),
        coefficient=torch.tensor([0.2]),
        next_latent=torch.tensor([[0.5]]),
        stochastic=True,
    )
    old = torch.tensor([[1.0]])  # drift = 0.2 * (1.5 - 1.0); mean_old = 0; noise = (0.5 - 0) / 0.25
    plain = guard(balance_steps=False)(transition, old, None, torch.tensor([-1.0]))
    assert plain.value.item() == pytest.approx(math.exp(0.2), rel=1e-5)
    balanced = guard()(transition, old, None, torch.tensor([-1.0]))
    assert balanced.value.item() == pytest.approx(math.exp(0.2) / 0.05, rel=1e-5)
    assert step_balance(transition).item() == pytest.approx(20, rel=1e-5)
    lucky = guard(balance_steps=False)(transition, old, None, torch.tensor([1.0]))
    assert lucky.value.item() == pytest.approx(-(1 + 1e-4), rel=1e-6)
    assert lucky.metrics["clipped"].item() == 1


def test_clip_is_pessimistic_on_both_sides():
    ratio = torch.tensor([0.5, 0.5, 1.05, 1.5, 1.5])
    advantage = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    loss = clipped_surrogate(ratio, advantage, clip_low=0.2, clip_high=0.1)
    assert torch.allclose(loss, torch.tensor([-0.5, 0.8, -2.1, -1.1, 1.5]))


def test_reference_kl_with_either_variance():
    transition, _ = moved(5, 0.0)
    reference = transition.velocity.detach() + 1
    exact = reference_kl(transition, reference, variance="exact", reduction="sum")
    expected = 18 * transition.coefficient.square() / (2 * transition.std.square())
    assert torch.allclose(exact, expected)
    released = reference_kl(transition, reference, variance="released", reduction="sum")
    dt = transition.sigma - transition.sigma_next
    assert torch.allclose(released, exact * dt, rtol=1e-5)


def test_reference_pull_is_added_and_logged():
    transition, old = moved(5, 0.0)
    reference = old + 1
    term = flow_grpo(kl_weight=0.5)(transition, old, reference, torch.zeros(4))
    assert torch.allclose(term.value, 0.5 * term.metrics["kl_reference"])
    with pytest.raises(ValueError, match=r"loss.kl_weight is 0.5 but no reference velocity came"):
        flow_grpo(kl_weight=0.5)(transition, old, None, torch.zeros(4))


def test_a_transition_without_noise_is_refused(transitions: MakeTransitions):
    transition = transitions(0.0)[3]
    with pytest.raises(ValueError, match=r"loss=grpo_guard needs a transition with noise, but step 3"):
        guard()(transition, transition.velocity, None, torch.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_low": 0.0}, "loss.clip_low must be a finite number above 0"),
        ({"kl_weight": -1.0}, "loss.kl_weight must be a finite number of at least 0"),
        ({"kl_variance": "guess"}, "loss.kl_variance must be one of exact, released, got 'guess'"),
        ({"density": "guess"}, "loss.density must be one of gaussian, squared_distance, got 'guess'"),
        ({"reduction": "max"}, "loss.reduction must be one of mean, sum"),
    ],
)
def test_settings_out_of_range_are_named(change, message: str):
    with pytest.raises(ValueError, match=message):
        flow_grpo(**change)
