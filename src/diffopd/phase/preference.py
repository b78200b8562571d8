"""Learning from pairs of pictures, one preferred to the other."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.loss import DPO
from diffopd.model import PipelineModel
from diffopd.phase.examples import encoded_pictures
from diffopd.phase.micro_batch import halves
from diffopd.phase.noise_levels import grid_levels, logit_normal_levels
from diffopd.phase.pair_sides import pair_sides
from diffopd.phase.processes import num_processes
from diffopd.phase.settings import StudentSettings
from diffopd.phase.taught import TaughtPhase
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.sampler import TransitionSampler
from diffopd.types import Conditioning, Prompts, Reward

CHOICES = {"rejected": ("student", "base", "pictures"), "levels": ("grid", "logit_normal")}
"""Settings with names, and the names."""


@final
class PreferencePhase(TaughtPhase):
    """Diffusion-DPO for flow models, and pairwise sample optimization (PSO).

    A round: each row's picture is preferred to another one for the same prompt: one that the student draws
    now (PSO, online), one that the base model draws, or a picture of the data (offline pairs). Both are
    noised to one level with one noise. The student is updated once, to explain the preferred one better than
    the base model does, by more than the other.

    Velocities are conditional, without guidance.

    Args:
        model: The frozen text-to-image model; without adapter it is the reference.
        adapter: Shape of the student.
        sampler: Draws the rejected pictures where they are drawn; its grid has the noise levels. Its guidance
            scale is that of what it draws.
        loss: Of a pair.
        reward: Scores the student's samples for the log; None scores none.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that need no reward.
        rejected: ``student``, ``base`` or ``pictures``.
        num_timesteps: Noise levels each pair is trained at in a round, at least 1.
        levels: ``grid``: one of the sampler's levels; ``logit_normal``: as in fine-tuning.
        sigma_location: Mean of the normal whose logistic is the noise level before the grid's shift.
        sigma_scale: Its standard deviation, above 0.

    Attributes:
        supervision: What its loss learns from.
        takes_pairs: That ``phase.rejected`` says where the rejected pictures come from.
        round_kind: What a round takes, for ``doctor``.

    References:
        Wallace et al., 2023, arXiv:2311.12908; Miao et al., 2024, arXiv:2410.03190.
    """

    supervision: ClassVar[str] = "preference"
    takes_buckets: ClassVar[bool] = True
    takes_pairs: ClassVar[bool] = True
    round_kind: ClassVar[str] = "preference"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        loss: DPO,
        reward: Reward | None = None,
        optimizer: OptimizerFactory,
        settings: StudentSettings,
        rejected: Literal["student", "base", "pictures"],
        num_timesteps: int,
        levels: Literal["grid", "logit_normal"],
        sigma_location: int | float,
        sigma_scale: int | float,
    ) -> None:
        for (setting, allowed), value in zip(CHOICES.items(), (rejected, levels), strict=True):
            if value not in allowed:
                raise ValueError(f"phase.{setting}={value} is not known; choose one of {', '.join(allowed)}")
        if num_timesteps < 1:
            raise ValueError(f"phase.num_timesteps={num_timesteps} must be at least 1")
        if not sigma_scale > 0:
            raise ValueError(f"phase.sigma_scale={sigma_scale} must be above 0")
        super().__init__(
            model=model,
            adapter=adapter,
            teacher=None,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
        )
        self.loss = loss
        self.rejected, self.levels = rejected, levels
        self.num_timesteps = num_timesteps
        self.sigma_location, self.sigma_scale = sigma_location, sigma_scale

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: the pairs, then one update on them."""
        self.score_student(prompts)
        weights = self.round_log.shares(prompts.tasks)
        for rows in self.micro_batches(prompts):
            part = prompts.select(rows)
            conditioning = self.conditioning(part)
            preferred = encoded_pictures(self, part.targets)
            rejected = self.rejected_of(part, conditioning)
            for number in range(self.num_timesteps):
                losses = self._losses(part, conditioning, preferred, rejected, weights[rows], number)
                self.add_gradient(losses, part, None)
        self.round_log.put(self.gradient_conflict())
        self.round_log.add("train/gradient_norm", self.update())
        self.log_round(prompts)

    def micro_batches(self, rows: int | Prompts) -> list[list[int]]:
        """As for other phases, of half the size: each row has two pictures in a forward."""
        return halves(super().micro_batches(rows), self.settings.micro_batch_size)

    @torch.no_grad()
    def rejected_of(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """The latents of the pictures that the targets are preferred to, in fp32."""
        if self.rejected == "pictures":
            return encoded_pictures(self, prompts.rejected)
        policy = self.student if self.rejected == "student" else self.base
        *_, last = self.rollout(self.sampler, prompts, conditioning, policy)
        self.round_log.add("train/cost/images", len(prompts) * num_processes())
        return last.next_latent.float()

    def _losses(
        self,
        prompts: Prompts,
        conditioning: Conditioning,
        preferred: Tensor,
        rejected: Tensor,
        weights: Tensor,
        number: int,
    ) -> Tensor:
        """Weighted losses of some pairs, each at a noise level of its own with one fresh noise for both."""
        share = weights / self.num_timesteps
        sigma, noise = self.sigmas(number, prompts), self.noise(f"preference/noise/{number}", prompts)
        reference = self.base if self.loss.needs_reference else None
        pictures = (preferred, rejected)
        term = self.loss(
            *pair_sides(self.student, reference, conditioning, pictures, noise, sigma, guidance_scale=1.0)
        )
        losses = share * term.value
        log, metrics = self.round_log, term.metrics
        log.add("train/loss/preference", losses.detach().sum())
        log.add("train/preference/margin", (share * metrics["margin"]).sum())
        log.add("train/preference/won_share", (share * (metrics["margin"] > 0)).sum())
        log.add("train/preference/rejected_gap", (share * metrics["rejected_gap"]).sum())
        log.add_by_task("train/sample_gap", metrics["preferred_gap"] / self.num_timesteps, prompts.tasks)
        return losses

    def sigmas(self, number: int, prompts: Prompts) -> Tensor:
        """The pairs' noise levels."""
        draw = (self.seed, f"preference/sigma/{number}", self.round, prompts.indices)
        if self.levels == "grid":
            return grid_levels(*draw, self.sampler.sigmas()).to(self.device)
        levels = logit_normal_levels(
            *draw, location=self.sigma_location, scale=self.sigma_scale, shift=self.sampler.shift
        )
        return levels.to(self.device)
