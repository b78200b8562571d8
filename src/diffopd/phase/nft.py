"""Learn a reward on the noising process, from one's own samples: DiffusionNFT and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffopd.adapter import Shape, blend, old_policy_decay, ramp_decay
from diffopd.flow import interpolate
from diffopd.loss import NoisedLoss
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.distribution import DistributionTerm
from diffopd.phase.reward_learning import RewardPhase
from diffopd.phase.round_scoring import RoundScoring
from diffopd.phase.settings import RewardSettings
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.randomness import torch_generator
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Distribution, Regulariser
from diffopd.types import Conditioning, Prompts, Reward


@final
class NFTPhase(RewardPhase):
    """A teacher by reinforcement learning on the noising process: DiffusionNFT, RAM, RVM.

    A round: the old policy samples several images of each prompt; their rewards become advantages within
    each prompt's group; the trained policy takes a few steps of the loss at random noise levels; the old
    policy moves towards it.

    Args:
        model: The frozen text-to-image model; it is the KL reference.
        adapter: Shape of the trained policy.
        sampler: The old policy's sampler, any; its guidance scale (1 in the paper) is that of samples.
        loss: DiffusionNFT's, or another that learns from noised samples and their advantages.
        reward: What to maximize.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that learn from rewards.
        old_policy: ``decay_type`` 0, 1 or 2 (released), or null and a ramp ``start``, ``rate``, ``cap``,
            counted in optimizer steps.
        num_timesteps: Noise levels each sample is trained at; null for all but the last of the grid.
        updates_per_round: Optimizer steps in a round; the noise levels are shared among them.
        regulariser: Keeps the model near another's distribution, or nothing does.
        loss_guidance_scale: Guidance of the networks in the loss; null = the sampler's. 1 with guided
            rollouts trains a student that needs no guidance.

    Attributes:
        old: The policy that makes the samples; it follows the trained one slowly.
        supervision: What its loss learns from.
        round_kind: What a round takes, for ``doctor``.
    """

    supervision: ClassVar[str] = "advantage"
    round_kind: ClassVar[str] = "reward_learning"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        loss: NoisedLoss,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: RewardSettings,
        old_policy: Mapping[str, Any],
        num_timesteps: int | None,
        updates_per_round: int,
        regulariser: Regulariser | None = None,
        loss_guidance_scale: int | float | None = None,  # not in the configs that earlier runs saved
    ) -> None:
        super().__init__(
            model=model,
            adapter=adapter,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
            advantage_clip=loss.advantage_clip,
            loss_guidance_scale=loss_guidance_scale,
        )
        self.old = self.add_policy("old")
        self.distribution: DistributionTerm | None = None
        if isinstance(regulariser, Distribution):
            regulariser.join(self)
            self.distribution = DistributionTerm(self, regulariser, updates_per_round)
        elif regulariser is not None and regulariser.weight > 0:
            raise ValueError(
                f"phase=nft takes no {type(regulariser).__name__} as its regulariser, which compares "
                "transitions; choose regulariser=distribution, or loss.kl_weight for the base model's "
                "velocity"
            )
        self.loss = loss
        self.old_policy = old_policy
        self.num_timesteps = num_timesteps or sampler.num_steps - 1
        if not 1 <= self.num_timesteps < sampler.num_steps or self.num_timesteps % updates_per_round:
            raise ValueError(
                f"phase.num_timesteps={num_timesteps} must be from 1 to sampler.num_steps - 1 = "
                f"{sampler.num_steps - 1} and a multiple of phase.updates_per_round={updates_per_round}"
            )
        self.updates_per_round = updates_per_round

    @property
    def updates_in_round(self) -> int:
        """As ``phase.updates_per_round`` says, with those of a fake score after each."""
        return self.updates_per_round * (1 + (self.distribution.updates if self.distribution else 0))

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: samples, their rewards, a few updates, and the old policy's move."""
        conditioning = self.conditioning(prompts)
        with finite_rewards_everywhere(self.device), self.scoring(prompts) as scoring:
            clean = self._samples(prompts, conditioning, scoring)
            found = scoring.result()
        advantage = self.judge(clean, prompts, found).of(prompts).to(self.device)
        weights = self.round_log.shares(prompts.tasks)

        steps_of_rows = self._timesteps(prompts)
        per_update = self.num_timesteps // self.updates_per_round
        for update in range(self.updates_per_round):
            for column in range(update * per_update, (update + 1) * per_update):
                for rows in self.micro_batches(len(prompts)):
                    steps, part = steps_of_rows[rows, column], prompts.select(rows)
                    share = weights[rows] / per_update
                    losses = self._losses(
                        part, conditioning.select(rows), clean[rows], steps, advantage[rows], column, share
                    )
                    losses = losses * weights[rows] / per_update
                    loss = self.add_gradient(losses, part, steps.tolist())
                    self.round_log.add(f"train/loss/{self.loss.name}", loss / self.updates_per_round)
            self.round_log.put(self.gradient_conflict())
            self.round_log.add("train/gradient_norm", self.update() / self.updates_per_round)
            if self.distribution is not None:
                self.distribution.learn()
        decay = self._old_decay(self.global_step)
        blend(self.old.weights(), self.student.weights(), decay)
        self.round_log.add("train/old_policy_decay", decay)
        self.log_round(prompts)

    @torch.no_grad()
    def _samples(self, prompts: Prompts, conditioning: Conditioning, scoring: RoundScoring) -> Tensor:
        """Clean latents made by the old policy; their images are given to be scored."""
        parts = []
        for rows in self.micro_batches(len(prompts)):
            *_, last = self.rollout(self.sampler, prompts.select(rows), conditioning.select(rows), self.old)
            parts.append(last.next_latent)
            scoring.add(self.images(last.next_latent))
        return torch.cat(parts)

    def _timesteps(self, prompts: Prompts) -> Tensor:
        """Steps of the grid each row is trained at: the first few of its own random permutation."""
        rows = [
            torch.randperm(
                self.sampler.num_steps, generator=torch_generator(self.seed, "nft/steps", self.round, index)
            )
            for index in prompts.indices
        ]
        return torch.stack(rows)[:, : self.num_timesteps]

    def _losses(
        self,
        prompts: Prompts,
        conditioning: Conditioning,
        clean: Tensor,
        steps: Tensor,
        advantage: Tensor,
        column: int,
        share: Tensor,
    ) -> Tensor:
        """The losses of some rows, each at its own noise level with fresh noise."""
        scale = self.loss_guidance
        sigma = self.sampler.sigmas()[steps].to(self.device)
        latent = interpolate(clean, self.noise(f"nft/noise/{column}", prompts), sigma)
        with torch.no_grad():
            velocity_old = reference = None
            if self.loss.needs_old:
                velocity_old = self.old.velocity(latent, sigma, conditioning, scale)
            if self.loss.needs_reference:
                reference = self.base.velocity(latent, sigma, conditioning, scale)
        velocity = self.student.velocity(latent, sigma, conditioning, scale)
        losses = self.loss(velocity, velocity_old, reference, latent, sigma, clean, advantage).value
        if self.distribution is not None:
            state = (latent, sigma, velocity)
            losses = losses + self.distribution.at(str(column), prompts, conditioning, state, share)
        return losses

    def _old_decay(self, step: int) -> float:
        if self.old_policy["decay_type"] is not None:
            return old_policy_decay(step, self.old_policy["decay_type"])
        ramp = {key: self.old_policy[key] for key in ("start", "rate", "cap")}
        return ramp_decay(step, **ramp)
