"""What every file in conf/loss promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.types import Transition

CHOICES = sorted((Path(__file__).parents[2] / "conf" / "loss").glob("*.yaml"))
POLICY_LOSSES = ["flow_grpo", "grpo_guard"]
TEACHER_LOSSES = ["clean_l2", "ode_l2", "opd", "reverse_kl", "reverse_kl_released", "velocity_uniform"]


def test_there_are_choices():
    assert [path.stem for path in CHOICES] == sorted(
        [*TEACHER_LOSSES, *POLICY_LOSSES, "diffusion_nft", "dmd", "flow_matching", "tdm"]
    )


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_loss_says_what_it_learns_from(path: Path):
    loss = instantiate(OmegaConf.load(path))
    expected = dict.fromkeys(POLICY_LOSSES, "transition_advantage") | {
        "diffusion_nft": "advantage",
        "dmd": "distribution",
        "flow_matching": "data",
        "tdm": "trajectory_distribution",
    }
    assert loss.supervision == expected.get(path.stem, "teacher")
    assert loss.needs_noise == (path.stem.startswith("reverse_kl") or path.stem in POLICY_LOSSES)


@pytest.mark.parametrize("name", TEACHER_LOSSES)
def test_teacher_losses_take_a_transition_and_average_over_the_latent(
    name: str, transitions: Callable[..., list[Transition]]
):
    path = next(path for path in CHOICES if path.stem == name)
    loss = instantiate(OmegaConf.load(path))
    student = transitions(0.7)[6]
    term = loss(student, torch.zeros_like(student.latent))
    assert loss.reduction == "mean"
    assert loss.normalize is False
    assert term.value.shape == (3,)
    assert term.value.requires_grad
    assert (term.value > 0).all()
    assert set(term.metrics) == {"velocity_gap", "kl_nats"}
    assert all(value.shape == (3,) for value in term.metrics.values())


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_comment_opens_the_file_and_every_value_is_explained(path: Path):
    first, target, *knobs = path.read_text().splitlines()
    assert first.startswith("# ")
    assert target.startswith("_target_: diffopd.loss.")
    assert all("  # " in knob for knob in knobs)
