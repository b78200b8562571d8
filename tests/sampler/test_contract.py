"""What every file in conf/sampler promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from diffopd.types import Sampler

CHOICES = sorted((Path(__file__).parents[2] / "conf" / "sampler").glob("*.yaml"))


def build(path: Path, **changes: float) -> Sampler:
    model = {"shift": 3.0, "guidance_scale": 4.5}
    config = OmegaConf.create({"model": model, "sampler": OmegaConf.load(path)})
    config.sampler = OmegaConf.merge(config.sampler, changes)
    return instantiate(config.sampler)


def pull_to_zero(latent: Tensor, sigma: Tensor) -> Tensor:
    """The velocity whose clean prediction is 0 everywhere."""
    return latent / sigma.view(-1, 1, 1, 1)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_default_settings_give_a_deterministic_ten_step_sampler(path: Path):
    sampler = build(path)
    assert isinstance(sampler, Sampler)
    assert sampler.deterministic
    assert (sampler.num_steps, sampler.guidance_scale) == (10, 4.5)
    grid = sampler.sigmas()
    assert (grid.shape, grid[0], grid[-1]) == ((11,), 1, 0)
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_rollout_ends_where_the_velocity_points(path: Path):
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    transitions = list(build(path).rollout(pull_to_zero, noise, lambda step: noise))
    assert len(transitions) == 10
    # The clean prediction is 0 at every step, so noise shrinks with sigma and nothing is left.
    torch.testing.assert_close(
        transitions[4].next_latent, noise * transitions[4].sigma_next[0], rtol=1e-5, atol=0
    )
    assert transitions[-1].next_latent.abs().max() < 1e-6


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_comment_opens_the_file_and_every_value_is_explained(path: Path):
    first, target, *knobs = path.read_text().splitlines()
    assert first.startswith("# ")
    assert target.startswith("_target_: diffopd.sampler.")
    assert all("  # " in knob for knob in knobs)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_noise_level_is_a_knob_of_every_choice(path: Path):
    if path.stem.startswith("dpm"):
        with pytest.raises(Exception, match=r"sampler.noise_level must be 0") as refusal:
            build(path, noise_level=0.5)
        assert isinstance(refusal.value.__cause__, ValueError)
    else:
        assert not build(path, noise_level=0.5).deterministic
