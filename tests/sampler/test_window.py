"""Noise in a window of steps, the sampler's ODE elsewhere."""

from __future__ import annotations

import pytest
import torch

from diffopd.sampler import CPSSampler, DPM2Sampler, FlowSampler, NoiseWindow

SETTINGS = {"num_steps": 6, "shift": 3.0, "guidance_scale": 1.0}


@pytest.mark.parametrize("kind", [FlowSampler, CPSSampler])
def test_steps_inside_are_noisy_and_steps_outside_are_euler(kind):
    noisy = kind(noise_level=0.7, **SETTINGS)
    window = NoiseWindow(noisy, range(1, 3))
    assert [window.stochastic(step) for step in range(6)] == [False, True, True, False, False, False]
    latent, velocity = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    inside, outside = window.transition(1, latent, velocity), window.transition(4, latent, velocity)
    assert torch.equal(inside.mean, noisy.transition(1, latent, velocity).mean)
    assert torch.equal(inside.std, noisy.transition(1, latent, velocity).std)
    quiet = kind(noise_level=0.0, **SETTINGS).transition(4, latent, velocity)
    assert torch.equal(outside.mean, quiet.mean)
    assert not outside.std.any()


def test_fresh_noise_is_asked_for_inside_alone():
    asked = []

    def fresh_noise(step):
        asked.append(step)
        return torch.zeros(1, 1, 2, 2)

    window = NoiseWindow(FlowSampler(noise_level=0.7, **SETTINGS), [0, 4])
    list(window.rollout(lambda latent, sigma: latent, torch.randn(1, 1, 2, 2), fresh_noise))
    assert asked == [0, 4]


def test_a_sampler_without_stochastic_form_is_refused():
    with pytest.raises(ValueError, match="choose sampler=flow, ddim, cps or dance"):
        NoiseWindow(DPM2Sampler(noise_level=0.0, loss_coefficient="taken", **SETTINGS), [1])


def test_another_noise_level_leaves_the_first_sampler_alone():
    sampler = FlowSampler(noise_level=0.7, **SETTINGS)
    assert sampler.at_noise_level(0).deterministic
    assert not sampler.deterministic
    with pytest.raises(ValueError, match=r"sampler.noise_level must be 0 for DPM2Sampler"):
        DPM2Sampler(noise_level=0.0, loss_coefficient="taken", **SETTINGS).at_noise_level(0.5)
