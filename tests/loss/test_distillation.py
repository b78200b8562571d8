"""The losses between a student's and a teacher's transition, against each other and the paper's formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffopd.flow import euler, flow_sde, log_prob, transition_kl, velocity_to_clean
from diffopd.loss import ODEL2, OPD, CleanL2, ReverseKL, ReverseKLReleased, VelocityUniform
from diffopd.types import Transition

MakeTransitions = Callable[..., list[Transition]]
LOSSES = {
    "clean_l2": CleanL2,
    "ode_l2": ODEL2,
    "opd": OPD,
    "reverse_kl": ReverseKL,
    "reverse_kl_released": ReverseKLReleased,
    "velocity_uniform": VelocityUniform,
}

# 10 steps at noise level 0.7: half the squared slope of the ODE, the exact KL weight, the released one.
# Worked from the shift-3 grid to three digits (the released column: two).
TABLE = [
    (7.95e-4, 1.62e-3, 6.5e-5),
    (1.09e-3, 3.07e-3, 1.4e-4),
    (1.55e-3, 8.35e-3, 4.6e-4),
    (2.27e-3, 1.77e-2, 1.2e-3),
    (3.45e-3, 3.49e-2, 2.9e-3),
    (5.53e-3, 6.88e-2, 7.2e-3),
    (9.42e-3, 1.44e-1, 2.0e-2),
    (1.75e-2, 3.40e-1, 6.4e-2),
    (3.62e-2, 1.11, 3.0e-1),
    (4.0e-5, 1.57, 1.4e-2),
]


def unit_gap_loss(name: str, transition: Transition) -> float:
    """Loss for a velocity gap of 1 in every element: the weight."""
    term = LOSSES[name](reduction="mean", normalize=False)(transition, transition.velocity.detach() + 1)
    return term.value[0].item()


def test_weights_of_each_step(transitions: MakeTransitions):
    ode, sde = transitions(0.0), transitions(0.7)
    for step, (half_square, exact, released) in enumerate(TABLE):
        assert unit_gap_loss("ode_l2", ode[step]) == pytest.approx(half_square, rel=0.01)
        assert unit_gap_loss("opd", ode[step]) == unit_gap_loss("ode_l2", ode[step])
        assert unit_gap_loss("reverse_kl", sde[step]) == pytest.approx(exact, rel=0.01)
        assert unit_gap_loss("opd", sde[step]) == unit_gap_loss("reverse_kl", sde[step])
        assert unit_gap_loss("reverse_kl_released", sde[step]) == pytest.approx(released, rel=0.04)
        assert unit_gap_loss("velocity_uniform", sde[step]) == pytest.approx(1.0, rel=1e-6)


def test_ode_loss_is_half_the_squared_distance_of_the_means(transitions: MakeTransitions):
    for student in transitions(0.0):
        teacher_velocity = torch.sin(student.latent)
        teacher = euler(student.latent, teacher_velocity, student.sigma, student.sigma_next)
        expected = 0.5 * (student.mean - teacher.mean).square().flatten(1).sum(1)
        found = OPD(reduction="sum", normalize=False)(student, teacher_velocity).value
        # The explicit form subtracts two means of size 1 whose gap is about |dt|, at least 0.009.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_clean_loss_is_half_the_squared_distance_of_the_clean_predictions(transitions: MakeTransitions):
    for student in transitions(0.7):
        teacher_velocity = torch.sin(student.latent)
        clean = [
            velocity_to_clean(student.latent, velocity, student.sigma)
            for velocity in (student.velocity, teacher_velocity)
        ]
        expected = 0.5 * (clean[0] - clean[1]).square().flatten(1).sum(1)
        found = CleanL2(reduction="sum", normalize=False)(student, teacher_velocity).value
        # As above: at the last step the gap is about sigma, 0.009.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_sde_loss_is_the_exact_kl(transitions: MakeTransitions):
    for student in transitions(0.7):
        teacher_velocity = torch.sin(student.latent)
        args = student.latent, teacher_velocity, student.sigma, student.sigma_next
        expected = transition_kl(student.mean, flow_sde(*args, noise_level=0.7).mean, student.std)
        term = ReverseKL(reduction="sum", normalize=False)(student, teacher_velocity)
        torch.testing.assert_close(term.value, expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(term.metrics["kl_nats"], term.value)


def test_kl_in_nats_is_the_expected_log_ratio(transitions: MakeTransitions):
    student = transitions(0.7)[5]
    teacher_velocity = student.velocity.detach() + 0.1
    args = student.latent, teacher_velocity, student.sigma, student.sigma_next
    teacher_mean = flow_sde(*args, noise_level=0.7).mean
    kl = OPD(reduction="mean", normalize=False)(student, teacher_velocity).metrics["kl_nats"][0].item()
    count, generator = 20_000, torch.Generator().manual_seed(0)
    mean, std = student.mean.detach()[:1].expand(count, 2, 4, 4), student.std[:1].expand(count)
    samples = mean + std.view(-1, 1, 1, 1) * torch.randn(count, 2, 4, 4, generator=generator)
    other = teacher_mean[:1].expand(count, 2, 4, 4)
    ratio = log_prob(samples, mean, std, reduction="sum") - log_prob(samples, other, std, reduction="sum")
    standard_error = (ratio.std() / count**0.5).item()
    assert standard_error < 0.2 * kl
    assert abs(ratio.mean().item() - kl) < 4 * standard_error


def test_released_weight_is_the_exact_one_times_the_step(transitions: MakeTransitions):
    for student in transitions(0.7):
        step = (student.sigma - student.sigma_next)[0].item()
        released, exact = unit_gap_loss("reverse_kl_released", student), unit_gap_loss("reverse_kl", student)
        assert released == pytest.approx(exact * step, rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_sum_is_the_mean_times_the_size(name: str, transitions: MakeTransitions):
    student = transitions(0.7)[3]
    teacher_velocity = torch.sin(student.latent)
    mean = LOSSES[name](reduction="mean", normalize=False)(student, teacher_velocity)
    total = LOSSES[name](reduction="sum", normalize=False)(student, teacher_velocity)
    torch.testing.assert_close(total.value, mean.value * 32)  # 2 x 4 x 4 elements
    assert torch.equal(total.metrics["kl_nats"], mean.metrics["kl_nats"])
    expected_gap = (student.velocity - teacher_velocity).square().mean((1, 2, 3)).detach()
    torch.testing.assert_close(mean.metrics["velocity_gap"], expected_gap)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_no_loss_and_no_gradient_when_student_equals_teacher(name: str, transitions: MakeTransitions):
    for student in transitions(0.7):
        term = LOSSES[name](reduction="sum", normalize=False)(student, student.velocity)
        (gradient,) = torch.autograd.grad(term.value.sum(), student.velocity)
        assert torch.equal(term.value, torch.zeros(3))
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradient_reaches_the_student_alone(name: str, transitions: MakeTransitions):
    student = transitions(0.7)[3]
    teacher_velocity = torch.zeros_like(student.latent, requires_grad=True)
    student.velocity.retain_grad()
    term = LOSSES[name](reduction="mean", normalize=False)(student, teacher_velocity)
    term.value.sum().backward()
    assert student.velocity.grad is not None
    assert student.velocity.grad.abs().min() > 0
    assert teacher_velocity.grad is None
    assert not any(value.requires_grad for value in term.metrics.values())


@pytest.mark.parametrize("name", ["reverse_kl", "reverse_kl_released"])
def test_explicit_kl_refuses_a_step_without_noise(
    name: str, transitions: MakeTransitions, cps_transitions: list[Transition]
):
    loss = LOSSES[name](reduction="mean", normalize=False)
    assert loss.needs_noise
    with pytest.raises(
        ValueError, match=rf"loss={name} needs a transition with noise, but step 4 .*loss=opd"
    ):
        loss(transitions(0.0)[4], torch.zeros(3, 2, 4, 4))
    with pytest.raises(ValueError, match=r"step 9 .counted from 0. of 10 has standard deviation 0"):
        loss(cps_transitions[9], torch.zeros(3, 2, 4, 4))


def test_opd_uses_the_ode_loss_at_the_noiseless_end_of_a_stochastic_rollout(
    cps_transitions: list[Transition],
):
    assert not OPD.needs_noise
    assert unit_gap_loss("opd", cps_transitions[8]) == unit_gap_loss("reverse_kl", cps_transitions[8])
    last = cps_transitions[9]
    assert unit_gap_loss("opd", last) == unit_gap_loss("ode_l2", last)
    term = OPD(reduction="mean", normalize=False)(last, torch.zeros(3, 2, 4, 4))
    assert term.value.isfinite().all()
    assert "kl_nats" not in term.metrics


def test_half_precision_velocities_are_compared_in_float32(transitions: MakeTransitions):
    student = transitions(0.0)[0]
    term = VelocityUniform(reduction="mean", normalize=False)(student, student.velocity.detach().bfloat16())
    assert term.value.dtype == torch.float32


@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_must_agree(transitions: MakeTransitions):
    with pytest.raises(ValueError, match=r"must have one shape, .* same VAE and resolution"):
        OPD(reduction="mean", normalize=False)(transitions(0.0)[0], torch.zeros(3, 2, 8, 8))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_unknown_reduction_is_refused(name: str):
    with pytest.raises(ValueError, match=r"loss.reduction must be one of mean, sum, got 'median'"):
        LOSSES[name](reduction="median", normalize=False)
