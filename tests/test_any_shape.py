"""Latents of any rank and of sides that differ: each number is that of the same latent laid out flat."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.config.folder import config_folder
from diffopd.flow import interpolate, velocity_to_clean, velocity_to_noise
from diffopd.loss import Side, TransitionMatching
from diffopd.loss.policy_gradient import PolicyGradient
from diffopd.randomness import normal_rows

SHAPES = [(16, 8, 12), (4, 3, 8, 12), (5,)]
"""A 2:3 picture, three frames of one (a latent of 5 axes with the batch's), a vector."""
CONF = Path(config_folder())
ROWS = 3


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def made(group, name, **settings):
    known = {"model": {"shift": 3.0, "guidance_scale": 1.0}}
    node = OmegaConf.create({**known, group: OmegaConf.load(CONF / group / f"{name}.yaml")})
    return instantiate(OmegaConf.merge(node[group], settings))


def latents(shape, *purposes):
    """A latent for each purpose; its values in their order do not depend on how the shape is cut."""
    return [normal_rows(0, purpose, 0, range(ROWS), shape) for purpose in purposes]


def flat(value):
    return value.flatten(1)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", names("sampler"))
def test_rollouts(name, shape):
    noisy = {} if name in ("ddim", "dpm1", "dpm2") else {"noise_level": 0.5}
    sampler = made("sampler", name, num_steps=4, **noisy)
    (start, *fresh) = latents(shape, "start", *map(str, range(4)))

    def velocity(latent, sigma):  # mixes nothing, so layout cannot matter
        return torch.tanh(latent) + sigma.reshape(-1, *[1] * (latent.ndim - 1))

    shaped = list(sampler.rollout(velocity, start, lambda step: fresh[step]))
    other = list(sampler.rollout(velocity, flat(start), lambda step: flat(fresh[step])))
    assert [t.next_latent.shape for t in shaped] == [(ROWS, *shape)] * 4
    for one, two in zip(shaped, other, strict=True):
        same(flat(one.next_latent), two.next_latent)
        same(one.std, two.std)


def transitions(shape, noise_level=0.5):
    sampler = made("sampler", "flow", num_steps=4, noise_level=noise_level)
    latent, velocity, target, fresh, old = latents(shape, "latent", "velocity", "target", "fresh", "old")
    velocity.requires_grad_()
    return sampler.transition(1, latent, velocity, noise=fresh), velocity, target, old


def of_kind(kind):
    return [name for name in names("loss") if isinstance(made("loss", name), kind)]


MATCHED = [(name, estimator) for name in of_kind(TransitionMatching) for estimator in names("estimator")]
POLICY = [(name, None) for name in of_kind(PolicyGradient)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "estimator"), MATCHED + POLICY)
def test_losses_of_transitions(name, estimator, shape):
    loss, asked = made("loss", name), estimator and made("estimator", estimator)
    found = []
    for cut in (shape, (math.prod(shape),)):
        transition, velocity, target, old = transitions(cut)
        if asked is None:
            term = loss(transition, old, target, torch.tensor([1.0, -1.0, 0.5]))
        else:
            term = asked(loss, transition, old, target)
        assert term.value.shape == (ROWS,)
        (gradient,) = torch.autograd.grad(term.value.sum(), velocity)
        found.append((term.value.detach(), flat(gradient)))
    for one, two in zip(*found, strict=True):
        same(one, two)


SAMPLES = (
    *("flow_matching", "diffusion_nft", "ram", "rvm", "dmd", "tdm"),
    *("dpo", "pso_released", "self_opd"),
)


def losses_of_samples(name, shape):
    """Value and gradient of a loss that compares samples, or what transitions lead to."""
    loss = made("loss", name)
    velocity, clean, noise, other, third = latents(shape, "velocity", "clean", "noise", "other", "third")
    sigma = torch.tensor([0.2, 0.5, 0.9])
    velocity.requires_grad_()
    latent = interpolate(clean, noise, sigma)
    if name == "flow_matching":
        term = loss(velocity, clean, noise)
    elif name in ("dpo", "pso_released"):
        term = loss(Side(velocity, noise - clean, other), Side(velocity / 2, noise - third, other))
    elif name == "self_opd":
        transition, velocity, *branches = transitions(shape)
        term = loss(
            transition,
            other,
            torch.stack(branches, 1),
            torch.tensor([[0.2, 0.9], [0.5, 0.1], [0.3, 0.4]]),
            torch.zeros(ROWS),
        )
    elif name in ("diffusion_nft", "ram", "rvm"):
        term = loss(velocity, other, third, latent, sigma, clean, torch.tensor([1.0, -1.0, 0.5]))
    else:
        term = loss(velocity_to_clean(latent, velocity, sigma), other, third)
        fake = loss.fake(velocity, latent, sigma, clean, noise)
        assert fake.value.shape == (ROWS,)
    (gradient,) = torch.autograd.grad(term.value.sum(), velocity)
    return term.value.detach(), flat(gradient)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SAMPLES)
def test_losses_of_samples(name, shape):
    for one, two in zip(
        losses_of_samples(name, shape), losses_of_samples(name, (math.prod(shape),)), strict=True
    ):
        same(one, two)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_and_predictions(shape):
    noise, velocity = latents(shape, "noise", "velocity")
    assert noise.shape == (ROWS, *shape)
    (whole,) = latents((math.prod(shape),), "noise")
    assert torch.equal(flat(noise), whole)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    clean, level = velocity_to_clean(noise, velocity, sigma), velocity_to_noise(noise, velocity, sigma)
    same(interpolate(clean, level, sigma), noise)


def test_no_loss_was_forgotten():
    assert {name for name, _ in MATCHED + POLICY} | set(SAMPLES) == set(names("loss"))
