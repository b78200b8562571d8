"""How well every teacher does on every task: rollouts of its own, from the same noise for all."""

from __future__ import annotations

import logging
from collections import defaultdict

import torch
from torch import Tensor

from diffopd.host.rank import is_first_process
from diffopd.phase.micro_batch import micro_batches
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import num_processes
from diffopd.phase.reward_learning import gathered
from diffopd.phase.scoring import scored
from diffopd.policy import Fixed
from diffopd.sampler import TransitionSampler
from diffopd.teacher import TeacherSet
from diffopd.types import Prompts, Reward

log = logging.getLogger(__name__)

MAX_ROWS = 64
"""Rollouts at once, unless ``phase.micro_batch_size`` says how many the memory holds."""


@torch.no_grad()
def measure_teachers(
    phase: PolicyPhase, teacher: TeacherSet, sampler: TransitionSampler, reward: Reward, prompts: Prompts
) -> dict[str, dict[str, float]]:
    """Mean reward of every teacher on every task.

    Each teacher samples at its own guidance. Noise depends on the run's seed and the prompt's index alone, so
    all teachers start alike, and the scores are those of any number of processes.

    Args:
        phase: Holds the model with the teachers loaded, and knows the run.
        teacher: The teachers.
        sampler: Its solver and grid; its guidance scale is not used.
        reward: What is measured.
        prompts: The same on all processes, which share the work.

    Returns:
        teacher -> task -> mean reward, the same on all processes.

    Raises:
        RewardError: If a sample cannot be scored.
    """
    # Shares of one size, as a sharded backbone needs; prompts that two processes have count once.
    per_process = -(-len(prompts) // num_processes())
    rows = range(phase.global_rank, per_process * num_processes(), num_processes())
    share = prompts.select([row % len(prompts) for row in rows])
    return {name: _mean_by_task(phase, teacher, name, sampler, reward, share) for name in teacher.tasks}


def _mean_by_task(
    phase: PolicyPhase,
    teacher: TeacherSet,
    name: str,
    sampler: TransitionSampler,
    reward: Reward,
    share: Prompts,
) -> dict[str, float]:
    """One teacher's mean rewards over the prompts of all processes."""
    if is_first_process():
        number = list(teacher.tasks).index(name) + 1
        text = "routing: scoring teacher %s (%d of %d) on %d prompts"
        log.info(text, name, number, len(teacher.tasks), len(share))
    values: list[float] = []
    for rows in micro_batches(len(share), phase.settings.micro_batch_size or MAX_ROWS):
        if rows:
            part = share.select(rows)
            images = phase.images(_clean(phase, teacher, name, sampler, part))
            values += scored(phase, reward, images, part, "reward").value.float().tolist()
    found = {}
    for task, index, value in zip(*gathered(share.tasks, share.indices, values), strict=True):
        found.setdefault((task, index), value)
    by_task = defaultdict(list)
    for (task, _), value in sorted(found.items()):
        by_task[task].append(value)
    return {task: sum(of_task) / len(of_task) for task, of_task in by_task.items()}


def _clean(
    phase: PolicyPhase, teacher: TeacherSet, name: str, sampler: TransitionSampler, prompts: Prompts
) -> Tensor:
    """Latents of one teacher's samples."""

    def noise(purpose: str) -> Tensor:
        return phase.noise(purpose, prompts, 0)

    policy = Fixed(phase.model, teacher.adapter(name))
    velocity = policy.given(phase.conditioning(prompts), teacher.guidance_scales[name])
    latent = noise("routing/start")
    for transition in sampler.rollout(velocity, latent, lambda step: noise(f"routing/step/{step}")):
        latent = transition.next_latent
    return latent
