from __future__ import annotations

import torch

from diffopd.flow import dpm1, dpm2


def test_constant_clean_prediction_needs_no_second_order():
    latent, velocity = torch.tensor([[1.5]]), torch.tensor([[1.0]])
    sigma, sigma_next, before = torch.tensor([0.5]), torch.tensor([0.25]), torch.tensor([0.75])
    clean = latent - 0.5 * velocity
    second = dpm2(latent, velocity, sigma, sigma_next, previous_clean=clean, sigma_previous=before)
    first = dpm1(latent, velocity, sigma, sigma_next)
    torch.testing.assert_close(second.mean, first.mean, rtol=1e-6, atol=0)


def test_dpm2_by_hand():
    # Levels 3/4, 1/2, 1/4 have log signal-to-noise ratios -log 3, 0, log 3, so h = log 3 and r = 1.
    # Weight of the clean prediction: (1 - 1/4)(1 - 1/3) = 1/2; latent 1, clean 0, previous clean 2:
    # mean = (t / s) * 1 + 1/2 * (0 + (0 - 2) / 2) = 1/2 - 1/2 = 0.
    step = dpm2(
        torch.tensor([[1.0]]),
        torch.tensor([[2.0]]),
        torch.tensor([0.5]),
        torch.tensor([0.25]),
        previous_clean=torch.tensor([[2.0]]),
        sigma_previous=torch.tensor([0.75]),
    )
    assert abs(step.mean.item()) < 1e-7
    # slope = -s * 1/2 * (1 + 1/2)
    torch.testing.assert_close(step.coefficient, torch.tensor([-0.375]), rtol=1e-6, atol=0)


def test_history_at_pure_noise_has_no_weight():
    args = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([0.5]), torch.tensor([0.25])
    step = dpm2(*args, previous_clean=torch.tensor([[50.0]]), sigma_previous=torch.tensor([1.0]))
    torch.testing.assert_close(step.mean, dpm1(*args).mean, rtol=1e-6, atol=0)


def test_gradient_reaches_the_current_velocity_alone():
    velocity = torch.tensor([[2.0]], requires_grad=True)
    previous = torch.tensor([[3.0]], requires_grad=True)
    step = dpm2(
        torch.tensor([[1.0]]),
        velocity,
        torch.tensor([0.5]),
        torch.tensor([0.25]),
        previous_clean=previous,
        sigma_previous=torch.tensor([0.75]),
    )
    step.mean.sum().backward()
    assert velocity.grad is not None
    torch.testing.assert_close(velocity.grad[:, 0], step.coefficient)
    assert previous.grad is None
