"""What every file in conf/loss promises."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.types import Transition

CHOICES = sorted((Path(__file__).parents[2] / "conf" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_teacher_losses_take_a_transition_and_average_over_the_latent(
    path: Path, transitions: Callable[..., list[Transition]]
):
    loss = instantiate(OmegaConf.load(path))
    if loss.supervision != "teacher":
        return
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
def test_a_loss_that_needs_noise_refuses_a_step_without_any(
    path: Path, transitions: Callable[..., list[Transition]]
):
    loss = instantiate(OmegaConf.load(path))
    if loss.supervision not in ("teacher", "transition_advantage"):
        return
    student = transitions(0.0)[6]
    if loss.supervision == "teacher":
        given = (student, torch.zeros_like(student.latent))
    else:
        old = student.velocity.detach()
        given = (student, old, old, torch.ones(len(student.latent)))
    with pytest.raises(ValueError, match="noise") if loss.needs_noise else contextlib.nullcontext():
        loss(*given)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_comment_opens_the_file_and_every_value_is_explained(path: Path):
    first, target, *knobs = path.read_text().splitlines()
    assert first.startswith("# ")
    assert target.startswith("_target_: diffopd.loss.")
    assert all("  # " in knob for knob in knobs)
