from __future__ import annotations

import torch

from diffopd.flow import (
    interpolate,
    velocity_between,
    velocity_to_clean,
    velocity_to_noise,
)


def test_interpolate_by_hand():
    clean = torch.tensor([[[2.0, 4.0]], [[1.0, 1.0]]])
    noise = torch.tensor([[[6.0, -4.0]], [[5.0, 3.0]]])
    # Row 0: 3/4 clean + 1/4 noise; row 1: pure noise.
    expected = torch.tensor([[[3.0, 2.0]], [[5.0, 3.0]]])
    assert torch.equal(interpolate(clean, noise, torch.tensor([0.25, 1.0])), expected)


def test_velocity_is_the_slope_of_the_path():
    clean, noise = torch.tensor([[2.0]]), torch.tensor([[5.0]])
    low = interpolate(clean, noise, torch.tensor([0.25]))
    high = interpolate(clean, noise, torch.tensor([0.75]))
    assert torch.equal((high - low) / 0.5, velocity_between(clean, noise))
    assert velocity_between(clean, noise).item() == 3.0


def test_both_ends_are_found_again():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    latent, velocity = interpolate(clean, noise, sigma), velocity_between(clean, noise)
    # float64: a few units in the last place, divided by sigma or 1 - sigma of at least 0.1.
    close = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(velocity_to_clean(latent, velocity, sigma), clean, **close)
    torch.testing.assert_close(velocity_to_noise(latent, velocity, sigma), noise, **close)
