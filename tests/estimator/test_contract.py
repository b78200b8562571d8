"""What every file in conf/estimator promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.estimator import Estimator
from diffopd.loss import ReverseKL
from diffopd.sampler import FlowSampler

CHOICES = sorted((Path(__file__).parents[2] / "conf" / "estimator").glob("*.yaml"))


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_an_estimator_turns_a_loss_into_a_value_with_a_gradient(path: Path):
    estimator = instantiate(OmegaConf.load(path))
    assert isinstance(estimator, Estimator)
    assert estimator.name == path.stem
    assert estimator.needs_noise == (path.stem != "closed_form")
    sampler = FlowSampler(num_steps=10, noise_level=0.7, shift=3.0, guidance_scale=1.0)
    latent, velocity, noise = torch.randn(3, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    student = sampler.transition(5, latent, velocity.requires_grad_(), noise=noise)
    term = estimator(
        ReverseKL(reduction="mean", normalize=False), student, velocity.detach(), torch.zeros_like(latent)
    )
    assert term.value.shape == (4,)
    assert all(value.shape == (4,) and not value.requires_grad for value in term.metrics.values())
    assert {"velocity_gap", "kl_nats"} <= set(term.metrics)
    assert ({"ratio", "clipped"} <= set(term.metrics)) == estimator.needs_noise
    (gradient,) = torch.autograd.grad(term.value.sum(), velocity)
    assert gradient.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_comment_opens_the_file_and_every_value_is_explained(path: Path):
    first, target, *knobs = path.read_text().splitlines()
    assert first.startswith("# ")
    assert target.startswith("_target_: diffopd.estimator.")
    assert all("  # " in knob for knob in knobs)
