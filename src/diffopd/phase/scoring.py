"""How phases score images; what a reward fails at, or finds all alike, is left in the run's folder."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning
import torch
from torch import Tensor

from diffopd.reward.checked import Sample, name_of, score_checked
from diffopd.reward.failed_sample import failures_saved, save_sample
from diffopd.types import Prompts, Reward, Scores

log = logging.getLogger(__name__)


@torch.no_grad()
def scored(
    phase: lightning.LightningModule, reward: Reward, images: Tensor, prompts: Prompts, path: str
) -> Scores:
    """Score images of the phase's round.

    Args:
        phase: Knows the round and, by its trainer, the run's folder.
        reward: The scorer.
        images: In [0, 1].
        prompts: One row per image.
        path: The reward's place in the config.

    Raises:
        RewardError: If a sample cannot be scored; it is saved.
    """
    with failures_saved(run_folder(phase), f"round_{phase.current_epoch + 1:06d}"):
        return score_checked(reward, images, prompts, path)


def warn_of_constant(
    phase: lightning.LightningModule, reward: Reward, value: float, sample: Sample, number: int
) -> None:
    """Say that a task's samples of the whole round got one and the same reward, and save one of them.

    Args:
        phase: As for :func:`scored`.
        reward: The scorer.
        value: What it gave them all.
        sample: One of them; that of an earlier round is replaced.
        number: How many they are.
    """
    task = sample.prompt.tasks[0]
    problem = (
        f"round {phase.current_epoch + 1}: reward ({name_of(reward)}) is {value:g} for all {number} samples "
        f"of task '{task}', so nothing is learned from them; is the reward constant, or the task too hard?"
    )
    log.warning("%s (%s)", problem, save_sample(sample, run_folder(phase), f"constant_{task}", problem))


def run_folder(phase: lightning.LightningModule) -> Path:
    """The folder of the run that trains a phase."""
    return Path(phase.trainer.default_root_dir)
