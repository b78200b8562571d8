"""Trajectory distribution matching: re-noising, weights and losses by hand."""

from __future__ import annotations

import math

import pytest
import torch

from diffopd.flow import interpolate
from diffopd.loss import TDM, importance_weight, mixed_noise, renoise, tdm_fake_loss, tdm_loss

PAIRS = [(0.0, 0.3), (0.278, 0.5), (0.6, 0.78), (0.9133, 0.99), (0.4, 0.4)]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_renoising_keeps_the_mean_and_gives_the_right_variance(before, after):
    """Of clean data 1 with noise of deviation ``before``: mean 1 - after, variance after^2, in two parts."""
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    s, t = torch.tensor([before]), torch.tensor([after])
    kept, added = renoise(one, zero, s, t).item(), renoise(zero, one, s, t).item()
    assert kept * (1 - before) == pytest.approx(1 - after, abs=1e-6)
    assert (kept * before) ** 2 + added**2 == pytest.approx(after**2, abs=1e-6)
    assert added >= 0


def test_renoising_by_simulation():
    """200,000 draws: the standard errors of mean and deviation are 0.0015 and 0.0011."""
    own, fresh = normal(2, 200_000, 1)
    clean = torch.full_like(own, 2.0)
    s, t = torch.full((200_000,), 0.5), torch.full((200_000,), 0.7)
    found = renoise(interpolate(clean, own, s), fresh, s, t)
    assert found.mean().item() == pytest.approx(0.3 * 2, abs=6e-3)
    assert found.std().item() == pytest.approx(0.7, abs=5e-3)


def test_renoising_from_clean_is_interpolation_and_to_the_same_level_nothing():
    state, noise = normal(2, 3, 4)
    zero, level = torch.zeros(3), torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(renoise(state, noise, zero, level), interpolate(state, noise, level))
    torch.testing.assert_close(renoise(state, noise, level, level), state, rtol=0, atol=1e-6)


def test_mixed_noise_is_what_the_two_noises_add_up_to():
    """From 0.6 to 0.8: k = 0.5, own share 0.5 * 0.6 / 0.8 = 0.375, fresh share sqrt(1 - 0.375^2)."""
    clean, own, fresh = normal(3, 2, 5)
    s, t = torch.full((2,), 0.6), torch.full((2,), 0.8)
    latent = renoise(interpolate(clean, own, s), fresh, s, t)
    expected = 0.375 * own + math.sqrt(1 - 0.375**2) * fresh
    torch.testing.assert_close(mixed_noise(latent, clean, t), expected, rtol=1e-5, atol=1e-5)


def test_importance_weight_by_hand_and_of_a_large_latent():
    mixed, fresh = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    torch.testing.assert_close(importance_weight(mixed, fresh), torch.tensor([math.exp(-0.5), 1.0]))
    large = torch.full((1, 65_536), 3.0, dtype=torch.bfloat16)
    torch.testing.assert_close(importance_weight(large, 0 * large), torch.tensor([math.exp(-4.5)]))


def test_student_losses_by_hand():
    """d = fake - real = (3, 0); mean |clean - real| = 2."""
    clean, real, fake = torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    # squared: mean (9, 0) / 2; Huber with c = 4: sqrt(9 + 16) - 4 = 1, mean (1, 0) / 2.
    assert tdm_loss(clean, real, fake, distance="squared", huber_width=4).tolist() == [2.25]
    assert tdm_loss(clean, real, fake, distance="huber", huber_width=4).tolist() == [0.25]


def test_slope_of_the_huber_loss_by_hand():
    """d / sqrt(d^2 + c^2) = 3 / 5, over two elements and the scale 2; away from the fake score."""
    clean = torch.tensor([[2.0, 2.0]]).requires_grad_()
    real, fake = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    TDM(distance="huber", huber_width=4, snr_clip=5)(clean, real, fake).value.sum().backward()
    assert clean.grad is not None
    torch.testing.assert_close(clean.grad, torch.tensor([[0.15, 0.0]]))


@pytest.mark.parametrize("distance", ["huber", "squared"])
def test_equal_scores_have_no_loss_and_no_gradient(distance):
    clean, real = normal(2, 2, 3)
    clean.requires_grad_()
    loss = TDM(distance=distance, huber_width=1e-3, snr_clip=5)(clean, real, real).value
    loss.sum().backward()
    assert clean.grad is not None
    assert loss.abs().max() < 1e-7
    assert clean.grad.abs().max() < 1e-4  # rounding of clean + real - real, a thousandth of c at most


def test_fake_loss_by_hand():
    """Error 2; snr 1 at sigma 0.5, and 81, clipped to 5, at sigma 0.1."""
    predicted, clean = torch.tensor([[2.0, 0.0]] * 2), torch.zeros(2, 2)
    sigma, weight = torch.tensor([0.5, 0.1]), torch.tensor([0.5, 2.0])
    found = tdm_fake_loss(predicted, clean, sigma, weight, snr_clip=5)
    torch.testing.assert_close(found, torch.tensor([1.0, 20.0]))


def test_fake_loss_of_a_velocity():
    """At sigma 0.5 a latent 0.5 with velocity -1 predicts 1; the mixed noise of clean 0 is 1, the fresh 0."""
    loss = TDM(distance="huber", huber_width=1e-3, snr_clip=5)
    sigma, latent = torch.tensor([0.5]), torch.full((1, 2), 0.5)
    velocity, clean = torch.full((1, 2), -1.0).requires_grad_(), torch.zeros(1, 2).requires_grad_()
    term = loss.fake(velocity, latent, sigma, clean, torch.zeros(1, 2))
    torch.testing.assert_close(term.value, torch.tensor([math.exp(-0.5)]))
    torch.testing.assert_close(term.metrics["importance_weight"], torch.tensor([math.exp(-0.5)]))
    term.value.sum().backward()
    assert velocity.grad is not None
    assert clean.grad is None


def test_settings_out_of_range_are_refused(unchecked_shapes: None):
    with pytest.raises(ValueError, match=r"loss\.distance=other is not known"):
        TDM(distance="other", huber_width=1e-3, snr_clip=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"loss\.snr_clip must be a finite number above 0"):
        TDM(distance="huber", huber_width=1e-3, snr_clip=0)
