"""The surrogate's parts: ratio and log-ratio against densities, values and gradients worked by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal

from diffopd.estimator import PPO, ClosedForm, LogRatio, PPODetached, log_ratio_advantage
from diffopd.loss import ODEL2, ReverseKL, VelocityUniform
from diffopd.sampler import FlowSampler
from diffopd.types import Transition

SETTINGS = {"log_prob_reduction": "sum", "clip_low": 0.2, "clip_high": 0.2, "advantage_clip": None}
KINDS = [PPO, PPODetached, LogRatio]
KL = ReverseKL(reduction="sum", normalize=False)
OLD = torch.tensor([[1.0]])
RATIO_UP, RATIO_DOWN = math.exp(0.72), math.exp(-0.88)


def by_hand(next_latent: float) -> Transition:
    """Slope 0.2, std 0.25, mean 0.1 for velocity 1.5; the old velocity 1 has mean 0, so drift 0.1.

    next_latent 0.5: noise 2, log-ratio 2 * 0.1 / 0.25 - 0.01 / 0.125 = 0.72, d log p / d velocity
    0.4 * 0.2 / 0.0625 = 1.28. next_latent -0.5: noise -2, log-ratio -0.88.
    """
    return Transition(
        step=0,
        num_steps=2,
        latent=torch.zeros(1, 1),
        sigma=torch.tensor([0.5]),
        sigma_next=torch.tensor([0.45]),
        velocity=torch.tensor([[1.5]], requires_grad=True),
        mean=torch.tensor([[0.1]]),
        std=torch.tensor([0.25]),
        std_released=torch.tensor([1.0]),
        coefficient=torch.tensor([0.2]),
        next_latent=torch.tensor([[next_latent]]),
        stochastic=True,
    )


def evaluate(estimator, next_latent, teacher):
    """Value, gradient wrt the velocity and metrics at the transition worked by hand."""
    student = by_hand(next_latent)
    term = estimator(KL, student, OLD, torch.tensor([[teacher]]))
    (gradient,) = torch.autograd.grad(term.value.sum(), student.velocity)
    return term.value.item(), gradient.item(), {k: v.item() for k, v in term.metrics.items()}


@pytest.mark.parametrize(
    ("estimator", "next_latent", "teacher", "value", "gradient", "clipped"),
    [
        # Velocity gap 1: KL 0.2^2 / (2 * 0.25^2) = 0.32, its gradient 0.64.
        # Above the clip, an action with advantage -0.32 is the worse side: nothing is cut.
        (PPO, 0.5, 0.5, RATIO_UP * 0.32, RATIO_UP * (0.64 + 0.32 * 1.28), 1),
        (PPODetached, 0.5, 0.5, RATIO_UP * 0.32, RATIO_UP * 0.32 * 1.28, 1),
        # Below it, the ratio counts as 0.8 and only the KL's own gradient is left.
        (PPO, -0.5, 0.5, 0.8 * 0.32, 0.8 * 0.64, 1),
        (PPODetached, -0.5, 0.5, 0.8 * 0.32, 0.0, 1),
        # Means 0.1 and -0.1: log p - log p_teacher at 0.5 is (-0.16 + 0.36) / 0.125 = 1.6.
        (LogRatio, 0.5, 0.5, RATIO_UP * 1.6, RATIO_UP * 1.6 * 1.28, 1),
        # Teacher's mean 0.3, nearer to 0.5: (-0.16 + 0.04) / 0.125 = -0.96, a good action beyond the clip.
        (LogRatio, 0.5, 2.5, 1.2 * -0.96, 0.0, 1),
        (ClosedForm, 0.5, 0.5, 0.32, 0.64, None),
    ],
)
def test_by_hand_outside_the_clip(estimator, next_latent, teacher, value, gradient, clipped):
    built = estimator() if estimator is ClosedForm else estimator(**SETTINGS)
    found, slope, metrics = evaluate(built, next_latent, teacher)
    assert found == pytest.approx(value, rel=1e-5)
    assert slope == pytest.approx(gradient, rel=1e-5)
    assert metrics["kl_nats"] == pytest.approx(0.32)
    assert metrics["velocity_gap"] == pytest.approx(1.0)
    if clipped is None:
        assert set(metrics) == {"kl_nats", "velocity_gap"}
    else:
        assert metrics["clipped"] == clipped
        assert metrics["ratio"] == pytest.approx(RATIO_UP if next_latent > 0 else RATIO_DOWN, rel=1e-5)


def test_a_clipped_advantage_cuts_the_pathwise_gradient():
    """Flow-OPD's clamp: beyond it the loss counts as a constant 0.1, so only its score term is left."""
    value, gradient, _ = evaluate(PPO(**{**SETTINGS, "advantage_clip": 0.1}), 0.5, 0.5)
    assert value == pytest.approx(RATIO_UP * 0.1, rel=1e-5)
    assert gradient == pytest.approx(RATIO_UP * 0.1 * 1.28, rel=1e-5)
    unchanged = evaluate(PPO(**{**SETTINGS, "advantage_clip": 0.4}), 0.5, 0.5)
    assert unchanged == evaluate(PPO(**SETTINGS), 0.5, 0.5)


def drawn(step: int, shift: float):
    """A transition drawn by one velocity and looked at by another, which differs by about ``shift``."""
    generator = torch.Generator().manual_seed(step)
    sampler = FlowSampler(num_steps=10, noise_level=0.7, shift=3.0, guidance_scale=1.0)
    latent, old, noise, other = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(4))
    new = (old + shift * other).requires_grad_()
    action = sampler.transition(step, latent, old, noise=noise).next_latent
    return sampler.transition(step, latent, new, next_latent=action), old


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 4, 8])
def test_the_ratio_is_that_of_the_normal_densities(kind, step):
    """With the sum, of the density; with the mean, its D-th root."""
    student, old = drawn(step, 0.05)
    scale = student.std.double()[:, None, None, None]
    mean = student.mean.detach().double()
    slope = student.coefficient.double()[:, None, None, None]
    mean_old = mean + slope * (old.double() - student.velocity.detach().double())
    action = student.next_latent.double()
    change = Normal(mean, scale).log_prob(action) - Normal(mean_old, scale).log_prob(action)
    for reduction, expected in (("sum", change.sum((1, 2, 3))), ("mean", change.mean((1, 2, 3)))):
        estimator = kind(**{**SETTINGS, "log_prob_reduction": reduction})
        ratio = estimator(KL, student, old, torch.zeros_like(old)).metrics["ratio"]
        assert torch.allclose(ratio.double().log(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("gap", [1.0, 1e-4])
def test_the_log_ratio_to_the_teacher_is_that_of_the_normal_densities(gap):
    """A small gap is not lost: the float32 value agrees with densities in float64."""
    student, teacher = drawn(8, gap)
    velocity, slope = student.velocity.detach().double(), student.coefficient.double()[:, None, None, None]
    mean, scale = student.mean.detach().double(), student.std.double()[:, None, None, None]
    mean_teacher = mean + slope * (teacher.double() - velocity)
    action = student.next_latent.double()
    log_ratio = Normal(mean_teacher, scale).log_prob(action) - Normal(mean, scale).log_prob(action)
    for reduction, expected in (("sum", log_ratio.sum((1, 2, 3))), ("mean", log_ratio.mean((1, 2, 3)))):
        found = log_ratio_advantage(student, teacher, reduction=reduction)
        assert not found.requires_grad
        assert torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_before_an_update_the_ratio_is_exactly_one_and_has_a_gradient(kind, reduction):
    for step in range(10):
        student, _ = drawn(step, 0.0)
        estimator = kind(**{**SETTINGS, "log_prob_reduction": reduction})
        term = estimator(KL, student, student.velocity.detach(), torch.zeros_like(student.latent))
        assert torch.equal(term.metrics["ratio"], torch.ones(4))
        assert not term.metrics["clipped"].any()
        (gradient,) = torch.autograd.grad(term.value.sum(), student.velocity)
        assert gradient.abs().max() > 0


def test_gradients_reach_the_student_alone():
    student, old = drawn(4, 0.1)
    old = old.requires_grad_()
    teacher = torch.zeros_like(student.latent, requires_grad=True)
    for kind in KINDS:
        kind(**SETTINGS)(KL, student, old, teacher).value.sum().backward()
    assert student.velocity.grad is not None
    assert old.grad is None
    assert teacher.grad is None


def test_ppo_weighs_by_the_loss_it_is_given_and_log_ratio_by_the_kl():
    student, old = drawn(4, 0.1)
    teacher, losses = (
        torch.zeros_like(old),
        (ODEL2(reduction="sum", normalize=False), VelocityUniform(reduction="mean", normalize=False)),
    )
    for loss in losses:
        value = PPO(**SETTINGS)(loss, student, student.velocity.detach(), teacher).value
        assert torch.allclose(value, loss(student, teacher).value)
    first, second = (LogRatio(**SETTINGS)(loss, student, old, teacher).value for loss in losses)
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_transition_without_noise_is_refused(kind):
    student, old = drawn(4, 0.0)
    silent = dataclasses.replace(student, stochastic=False, std=torch.zeros(4))
    with pytest.raises(ValueError, match=rf"estimator={kind.name} needs a transition with noise, but step 4"):
        kind(**SETTINGS)(ODEL2(reduction="mean", normalize=False), silent, old, old)
    term = ClosedForm()(ODEL2(reduction="mean", normalize=False), silent, old, old + 1)
    assert (term.value > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_low": 0.0}, "estimator.clip_low must be a finite number above 0, got 0.0"),
        ({"clip_high": math.inf}, "estimator.clip_high must be a finite number above 0, got inf"),
        (
            {"advantage_clip": -1.0},
            "estimator.advantage_clip must be a finite number above 0 or null, got -1",
        ),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        PPO(**{**SETTINGS, **change})
