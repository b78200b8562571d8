"""Expectation and variance of each estimator's gradient over the drawn noise."""

from __future__ import annotations

import pytest
import torch

from diffopd.estimator import PPO, ClosedForm, LogRatio, PPODetached

SUM = {"log_prob_reduction": "sum", "clip_low": 0.2, "clip_high": 0.2, "advantage_clip": None}
MEAN = {**SUM, "log_prob_reduction": "mean"}
NEVER_CLIPPED = {**SUM, "clip_low": 1e9, "clip_high": 1e9}
DRAWS = 40_000


def assert_mean(gradients, expected):
    """Every component within four standard errors, and these small beside what is expected of others."""
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - expected).abs() < 4 * error).all()


@pytest.fixture(scope="module")
def drawn(problem):
    return problem(DRAWS)


@pytest.fixture(scope="module")
def exact(problem):
    return problem(1).gradients(ClosedForm())[0]


def test_closed_form_is_the_same_for_every_draw(problem, exact):
    gradients = problem(50).gradients(ClosedForm())
    assert torch.equal(gradients, exact.expand_as(gradients))


def test_closed_form_is_the_pathwise_gradient(problem, exact):
    """Eq. 15 by hand: ``(mean - teacher mean) / std^2`` times the slope, times the latent."""
    one = problem(1)
    student = one.transition((one.latent @ one.matrix.T)[None])
    gap = one.latent @ one.matrix.T - one.teacher
    expected = (student.coefficient / student.std).square() * torch.outer(gap, one.latent).flatten()
    assert torch.allclose(exact, expected, rtol=1e-5)


@pytest.mark.parametrize("estimator", [PPO(**SUM), LogRatio(**SUM)], ids=lambda e: e.name)
def test_expected_gradient_is_the_closed_forms(estimator, drawn, exact):
    gradients = drawn.gradients(estimator)
    assert_mean(gradients, exact)
    assert (gradients.std(0) / DRAWS**0.5).norm() < 0.05 * exact.norm()


def test_detached_advantage_teaches_nothing(drawn, exact):
    gradients = drawn.gradients(PPODetached(**SUM))
    assert_mean(gradients, 0.0)
    assert (gradients.std(0) / DRAWS**0.5).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("estimator", [PPO(**NEVER_CLIPPED), LogRatio(**NEVER_CLIPPED)], ids=lambda e: e.name)
def test_expectation_holds_for_actions_of_an_older_policy(estimator, drawn, exact):
    older = drawn.matrix + 0.3 * torch.eye(len(drawn.matrix))
    assert_mean(drawn.gradients(estimator, older), exact)


@pytest.mark.parametrize(
    "estimator",
    [kind(**settings) for kind in (PPO, PPODetached, LogRatio) for settings in (SUM, MEAN)],
    ids=lambda e: f"{e.name}_{e.log_prob_reduction}",
)
def test_expected_scale(estimator, drawn, exact):
    assert_mean(drawn.gradients(estimator), estimator.expected_scale(len(drawn.latent)) * exact)


def test_variances_are_those_worked_out_for_gaussians(drawn, exact):
    """In the velocity's three axes, with ``r = coefficient / std``, KL ``k = r^2 |gap|^2 / 2``.

    ppo ``3 r^2 k^2`` (a ninth with the mean over axes); log_ratio ``3 r^2 (k^2 + 2 k) + r^2 2 k``; all times
    the squared norm of the latent.
    """
    student = drawn.transition((drawn.latent @ drawn.matrix.T).expand(DRAWS, 3))
    r2 = (student.coefficient / student.std).square()[0]
    k = r2 * (drawn.latent @ drawn.matrix.T - drawn.teacher).square().sum() / 2
    assert 1 < k < 4
    score = 3 * r2 * drawn.latent.square().sum()
    expected = {
        PPO(**SUM): score * k**2,
        PPO(**MEAN): score * k**2 / 9,
        PPODetached(**SUM): score * k**2,
        LogRatio(**SUM): score * (k**2 + 2 * k + 2 * k / 3),
        LogRatio(**MEAN): score * (k**2 + 2 * k + 2 * k / 3) / 81,
    }
    for estimator, variance in expected.items():
        found = drawn.gradients(estimator).var(0).sum()
        assert float(found) == pytest.approx(float(variance), rel=0.03), estimator
