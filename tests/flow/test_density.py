from __future__ import annotations

import math

import pytest
import torch

from diffopd.flow import log_prob, log_prob_cps_released, reduce_latent, transition_kl


def test_log_prob_by_hand():
    # One standard deviation away in one of two elements, std 2: -1/2 - 2 log 2 - log(2 pi).
    sample, mean, std = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 5.0]]), torch.tensor([2.0])
    expected = -0.5 - 2 * math.log(2) - math.log(2 * math.pi)
    assert log_prob(sample, mean, std, reduction="sum").item() == pytest.approx(expected, rel=1e-6)
    assert log_prob(sample, mean, std, reduction="mean").item() == pytest.approx(expected / 2, rel=1e-6)


def test_log_prob_gradient_reaches_the_mean_alone():
    sample = torch.tensor([[3.0]], requires_grad=True)
    mean = torch.tensor([[1.0]], requires_grad=True)
    log_prob(sample, mean, torch.tensor([2.0]), reduction="sum").sum().backward()
    assert mean.grad is not None
    assert mean.grad.item() == 0.5  # (3 - 1) / 2^2
    assert sample.grad is None


def test_released_cps_form_by_hand():
    assert log_prob_cps_released(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])).item() == -2.0


def test_kl_by_hand():
    kl = transition_kl(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1.0, 0.5]))
    assert kl.tolist() == [1.5, 6.0]


def test_kl_is_the_expected_log_ratio():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64)
    std = torch.tensor([0.8], dtype=torch.float64)
    count = 200_000
    samples = student + 0.8 * torch.randn(count, 8, generator=generator, dtype=torch.float64)
    many = std.expand(count)
    ratios = log_prob(samples, student.expand(count, 8), many, reduction="sum") - log_prob(
        samples, teacher.expand(count, 8), many, reduction="sum"
    )
    standard_error = ratios.std().item() / math.sqrt(count)
    exact = transition_kl(student, teacher, std).item()
    assert standard_error < 0.01 * exact
    assert abs(ratios.mean().item() - exact) < 4 * standard_error


@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 8\); do both models use the same VAE"):
        transition_kl(torch.zeros(2, 4), torch.zeros(2, 8), torch.ones(2))


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="mean, sum, got 'max'"):
        reduce_latent(torch.zeros(1, 2), "max")
