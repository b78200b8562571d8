"""Supervised fine-tuning on teacher samples: the student imitates what its teachers generate."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.flow import interpolate, shift_sigma
from diffopd.loss import FlowMatching, velocity_gap
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.processes import num_processes
from diffopd.phase.scoring import scored
from diffopd.phase.settings import StudentSettings
from diffopd.phase.taught import TaughtPhase
from diffopd.policy import OptimizerFactory
from diffopd.randomness import normal_rows, uniform_rows
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Target
from diffopd.types import Conditioning, Prompts, Reward


@final
class SFTPhase(TaughtPhase):
    """Flow matching on samples that the task's teacher makes during training.

    A round: each prompt's teacher rolls out at its own guidance, the tasks mixed in one batch; the best of
    several samples is kept; the student learns their velocity at random noise levels and is updated once.

    The student's velocity is conditional, without guidance: it learns the guided samples themselves. Guidance
    in evaluation then guides twice.

    Args:
        model: The frozen text-to-image model; without adapter it is the KL reference.
        adapter: Shape of the student.
        teacher: The teachers, one per task.
        sampler: Sampler of the teachers' rollouts. Its guidance scale is that of the scored student.
        loss: Flow matching.
        reward: Chooses the best samples, and scores the student's for the log.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that have teachers.
        num_timesteps: Noise levels each sample is trained at in a round, at least 1.
        sigma_location: Mean of the normal whose logistic is the noise level before the grid's shift.
        sigma_scale: Its standard deviation, above 0.
        caption_dropout: Share of prompts replaced by the empty one, in [0, 1].
        best_of_n: Samples per prompt, of which the one with the highest reward is kept; 1 asks for no reward.
        kl_weight: Weight of the squared distance to the base model's velocity; 0 saves its forward.

    Attributes:
        supervision: What its loss learns from.
        round_kind: What a round takes, for ``doctor``.

    References:
        The fine-tuning of Flow-GRPO's code (logit-normal levels, best of n) and Flow-OPD's (the KL term);
        Esser et al., 2024, arXiv:2403.03206, for the noise levels.
    """

    supervision: ClassVar[str] = "data"
    round_kind: ClassVar[str] = "fine_tuning"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target,
        sampler: TransitionSampler,
        loss: FlowMatching,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: StudentSettings,
        num_timesteps: int,
        sigma_location: int | float,
        sigma_scale: int | float,
        caption_dropout: int | float,
        best_of_n: int,
        kl_weight: int | float,
    ) -> None:
        for setting, value in (("num_timesteps", num_timesteps), ("best_of_n", best_of_n)):
            if value < 1:
                raise ValueError(f"phase.{setting}={value} must be at least 1")
        if not sigma_scale > 0:
            raise ValueError(f"phase.sigma_scale={sigma_scale} must be above 0")
        super().__init__(
            model=model,
            adapter=adapter,
            teacher=teacher,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
        )
        self.loss = loss
        self.num_timesteps = num_timesteps
        self.sigma_location, self.sigma_scale = sigma_location, sigma_scale
        self.caption_dropout = caption_dropout
        self.best_of_n = best_of_n
        self.kl_weight = kl_weight

    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: the teachers' samples, then one update on them."""
        self.score_student(prompts)
        weights = self.round_log.shares(prompts.tasks)
        for rows in self.micro_batches(len(prompts)):
            part = prompts.select(rows)
            conditioning = self.conditioning(part)
            clean = self._samples(part, conditioning)
            for number in range(self.num_timesteps):
                losses = self._losses(part, conditioning, clean, weights[rows], number)
                self.add_gradient(losses, part, None)
        self.round_log.put(self.gradient_conflict())
        self.round_log.add("train/gradient_norm", self.update())
        self.round_log.add("train/cost/images", self.best_of_n * len(prompts) * num_processes())
        self.log_round(prompts)

    @torch.no_grad()
    def _samples(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """Clean latents by the teachers: of several candidates per prompt, the one the reward likes best."""
        candidates = torch.stack(
            [self._candidate(number, prompts, conditioning) for number in range(self.best_of_n)]
        )
        if self.best_of_n == 1:
            return candidates[0]
        with finite_rewards_everywhere(self.device):
            rewards = [
                scored(self, self.reward, self.images(clean), prompts, "reward").value for clean in candidates
            ]
        self.round_log.add("train/cost/reward_calls", self.best_of_n * len(prompts) * num_processes())
        return candidates[torch.stack(rewards).argmax(0).cpu(), torch.arange(len(prompts))]

    def _candidate(self, number: int, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """One sample per prompt, from noise of its own."""

        def fresh_noise(step: int) -> Tensor:
            return self.noise(f"sft/candidate/{number}/step/{step}", prompts)

        start = self.noise(f"sft/candidate/{number}/start", prompts)
        *_, last = self.sampler.rollout(self.teacher.given(prompts, conditioning), start, fresh_noise)
        return last.next_latent

    def _losses(
        self, prompts: Prompts, conditioning: Conditioning, clean: Tensor, weights: Tensor, number: int
    ) -> Tensor:
        """Weighted losses of some rows, each at a noise level of its own with fresh noise."""
        share = weights / self.num_timesteps
        sigma, noise = self.sigmas(number, prompts), self.noise(f"sft/noise/{number}", prompts)
        latent = interpolate(clean, noise, sigma)
        given = self._with_empty(prompts, conditioning, number)
        velocity = self.student.velocity(latent, sigma, given, 1.0)
        losses = share * self.loss(velocity, clean, noise).value
        self.round_log.add("train/loss/sft", losses.detach().sum())
        if self.kl_weight > 0:
            with torch.no_grad():
                reference = self.base.velocity(latent, sigma, given, 1.0)
            kl = share * velocity_gap(velocity, reference, reduction="mean")
            self.round_log.add("train/loss/kl_reference", kl.detach().sum())
            losses = losses + self.kl_weight * kl
        gap = velocity_gap(velocity.detach(), noise - clean, reduction="mean")
        self.round_log.add_by_task("train/sample_gap", gap / self.num_timesteps, prompts.tasks)
        return losses

    def sigmas(self, number: int, prompts: Prompts) -> Tensor:
        """Logit-normal noise levels, moved by the grid's shift; each row from its own generator."""
        normal = normal_rows(self.seed, f"sft/sigma/{number}", self.round, prompts.indices, (1,))[:, 0]
        level = torch.sigmoid(self.sigma_location + self.sigma_scale * normal)
        return shift_sigma(level, self.sampler.shift).to(self.device)

    def _with_empty(self, prompts: Prompts, conditioning: Conditioning, number: int) -> Conditioning:
        """The conditioning with the dropped rows' prompts replaced by the empty one."""
        if self.caption_dropout == 0:
            return conditioning
        draws = uniform_rows(self.seed, f"sft/dropout/{number}", self.round, prompts.indices, (1,))[:, 0]
        # The empty prompt comes last.
        rows = torch.where(draws < self.caption_dropout, len(prompts), torch.arange(len(prompts)))
        return Conditioning.concat([conditioning, self.model.unconditional()]).select(rows)
