"""What the distillation baselines share: teachers, a sampler, the student's samples scored for the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from diffopd.adapter import LoRA
from diffopd.model import PipelineModel
from diffopd.phase.adapted import STUDENT, AdaptedPhase, OptimizerFactory, micro_batches
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.by_task import add_rewards
from diffopd.phase.processes import num_processes
from diffopd.phase.scoring import scored
from diffopd.sampler import TransitionSampler
from diffopd.teacher import TeacherSet
from diffopd.types import Conditioning, Prompts, Reward


class TaughtPhase(AdaptedPhase):
    """Base of the baselines: each prompt has its task's teacher, as in distillation.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student's adapter.
        teacher: The teachers, one per task.
        sampler: Sampler of the rollouts; its guidance scale is the student's.
        reward: Scores the student's samples for the log.
        optimizer: Makes the optimiser from parameters.
        seed: Seed of every draw.
        ema: ``decay`` and ``update_interval`` of the student's average.
        gradient_clip: Largest gradient norm.
        micro_batch_size: Most rows in one forward; null for all at once.
        score_every_n_rounds: Rounds from one scored rollout of the student to the next; 0 for never.
        conflict_every_n_rounds: Rounds from one measurement of the tasks' gradient conflict to the next.
    """

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: LoRA,
        teacher: TeacherSet,
        sampler: TransitionSampler,
        reward: Reward,
        optimizer: OptimizerFactory,
        seed: int,
        ema: Mapping[str, Any],
        gradient_clip: float,
        micro_batch_size: int | None,
        score_every_n_rounds: int,
        conflict_every_n_rounds: int,
    ) -> None:
        super().__init__(
            model=model,
            adapter=adapter,
            optimizer=optimizer,
            seed=seed,
            ema=ema,
            gradient_clip=gradient_clip,
            conflict_every_n_rounds=conflict_every_n_rounds,
        )
        teacher.load(cast(Any, model))
        self.teacher = teacher
        self.sampler = sampler
        self.reward = reward
        self.micro_batch_size = micro_batch_size
        self.score_every_n_rounds = score_every_n_rounds

    def teacher_velocity(
        self, latent: Tensor, sigma: Tensor, prompts: Prompts, conditioning: Conditioning
    ) -> Tensor:
        """Each row's velocity by its task's teacher at that teacher's guidance, without gradient."""
        empty = self.model.unconditional()
        return self.teacher.velocity(self.model, latent, sigma, prompts.tasks, conditioning, empty)

    @torch.no_grad()
    def score_student(self, totals: defaultdict[str, Tensor], prompts: Prompts) -> None:
        """In rounds that ask for it, roll the student out and add its rewards to what is logged.

        The rollout is for the log alone and is no part of ``train/cost/images``.
        """
        if not self.due(self.score_every_n_rounds):
            return
        counts = Counter(prompts.tasks)
        for rows in micro_batches(len(prompts), self.micro_batch_size):
            part = prompts.select(rows)
            *_, last = self.rollout(self.sampler, part, self.conditioning(part), STUDENT)
            with finite_rewards_everywhere(self.device):
                scores = scored(self, self.reward, self.images(last.next_latent), part, "reward")
            add_rewards(totals, scores, part, counts)
        totals["train/cost/reward_calls"] += len(prompts) * num_processes()
