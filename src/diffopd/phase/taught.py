"""What the distillation baselines share: teachers, a sampler, the student's samples scored for the log."""

from __future__ import annotations

from typing import ClassVar

import torch

from diffopd.adapter import Shape
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import num_processes
from diffopd.phase.scoring import scored
from diffopd.phase.settings import StudentSettings
from diffopd.policy import OptimizerFactory
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Target
from diffopd.types import Prompts, Reward


class TaughtPhase(PolicyPhase):
    """Base of the baselines: each prompt has its task's teacher, as in distillation.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student.
        teacher: The teachers, one per task; None for a phase that learns from something else.
        sampler: Sampler of the rollouts; its guidance scale is the student's.
        reward: Scores the student's samples for the log; None scores none.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that have teachers.

    Attributes:
        settings_type: Type of ``settings``.
        loss_guidance: Guidance at which the student is used.
    """

    settings_type: ClassVar[type[StudentSettings]] = StudentSettings
    settings: StudentSettings

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target | None,
        sampler: TransitionSampler,
        reward: Reward | None,
        optimizer: OptimizerFactory,
        settings: StudentSettings,
    ) -> None:
        super().__init__(model=model, adapter=adapter, optimizer=optimizer, settings=settings)
        self.teacher, self.sampler, self.reward = teacher, sampler, reward
        self.loss_guidance = sampler.guidance_scale
        if teacher is not None:
            teacher.join(self)

    @torch.no_grad()
    def score_student(self, prompts: Prompts) -> None:
        """In rounds that ask for it, roll the student out and add its rewards to what is logged.

        The rollout is for the log alone and is no part of ``train/cost/images``.
        """
        if self.reward is None or not self.due(self.settings.score_every_n_rounds):
            return
        for rows in self.micro_batches(prompts):
            part = prompts.select(rows)
            *_, last = self.rollout(self.sampler, part, self.conditioning(part), self.student)
            with finite_rewards_everywhere(self.device):
                scores = scored(self, self.reward, self.images(last.next_latent), part, "reward")
            self.round_log.add_rewards(scores, part)
        self.round_log.add("train/cost/reward_calls", len(prompts) * num_processes())
