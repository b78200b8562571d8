"""DiffusionNFT: learn a reward on the noising process, from one's own samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffopd.adapter import LoRA, blend, old_policy_decay, ramp_decay
from diffopd.flow import interpolate
from diffopd.loss import DiffusionNFT
from diffopd.model import PipelineModel
from diffopd.phase.adapted import AVERAGE, STUDENT, OptimizerFactory, micro_batches
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.by_task import task_weights
from diffopd.phase.reward_learning import RewardPhase
from diffopd.phase.round_scoring import RoundScoring
from diffopd.randomness import torch_generator
from diffopd.reward.advantage import AdvantageMode, StdScope
from diffopd.sampler import TransitionSampler
from diffopd.types import Conditioning, Prompts, Reward

OLD = "old"
"""The adapter of the policy that makes the samples; it follows the trained one slowly."""


@final
class NFTPhase(RewardPhase):
    """A teacher by reinforcement learning with DiffusionNFT.

    A round: the old policy samples several images of each prompt; their rewards become advantages within
    each prompt's group; the trained adapter takes a few steps of the NFT loss at random noise levels; the old
    policy moves towards it.

    Args:
        model: The frozen text-to-image model; without adapter it is the KL reference.
        adapter: Shape of the trained adapter.
        sampler: The old policy's sampler, any; its guidance scale (1 in the paper) is the policy's.
        loss: The NFT loss.
        reward: What to maximise.
        optimizer: Makes the optimiser from parameters.
        seed: Seed of every draw.
        ema: ``decay`` and ``update_interval`` of the trained adapter's average.
        gradient_clip: Largest gradient norm.
        old_policy: ``decay_type`` 0, 1 or 2 (released), or null and a ramp ``start``, ``rate``, ``cap``,
            counted in optimiser steps.
        advantage_std: ``global`` over the round's samples, or ``group``.
        advantage_mode: Which advantages are kept: ``all``, ``positive_only``, ``negative_only``,
            ``one_only``, ``binary``.
        held_out: Rewards that are logged and never trained on.
        num_timesteps: Noise levels each sample is trained at; null for all but the last of the grid.
        updates_per_round: Optimiser steps in a round; the noise levels are shared among them.
        micro_batch_size: Most rows in one forward; null for all at once.
        score_in_background: Score a micro-batch while the next is sampled; the round's results are the same.
        conflict_every_n_rounds: Rounds from one measurement of the cosines between the tasks' gradients to
            the next; 0 for never.

    Attributes:
        supervision: What its loss learns from.
    """

    supervision: ClassVar[str] = "advantage"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: LoRA,
        sampler: TransitionSampler,
        loss: DiffusionNFT,
        reward: Reward,
        optimizer: OptimizerFactory,
        seed: int,
        ema: Mapping[str, Any],
        gradient_clip: float,
        old_policy: Mapping[str, Any],
        advantage_std: StdScope,
        advantage_mode: AdvantageMode,
        held_out: Mapping[str, Reward],
        num_timesteps: int | None,
        updates_per_round: int,
        micro_batch_size: int | None,
        score_in_background: bool,
        conflict_every_n_rounds: int,
    ) -> None:
        super().__init__(
            model=model,
            adapter=adapter,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            seed=seed,
            ema=ema,
            gradient_clip=gradient_clip,
            advantage_std=advantage_std,
            advantage_mode=advantage_mode,
            advantage_clip=loss.advantage_clip,
            held_out=held_out,
            micro_batch_size=micro_batch_size,
            score_in_background=score_in_background,
            conflict_every_n_rounds=conflict_every_n_rounds,
        )
        self.add_trained_adapter(OLD)
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
    def saved_adapters(self) -> tuple[str, ...]:
        """Adapters that training changes, and checkpoints hold."""
        return (STUDENT, AVERAGE, OLD)

    @property
    def updates_in_round(self) -> int:
        """As ``phase.updates_per_round`` says."""
        return self.updates_per_round

    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round of DiffusionNFT."""
        totals: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        conditioning = self.conditioning(prompts)
        with finite_rewards_everywhere(self.device), self.scoring(prompts) as scoring:
            clean = self._samples(prompts, conditioning, scoring)
            found = scoring.result()
        advantage = self.judge(totals, clean, prompts, found).of(prompts).to(self.device)
        weights = torch.tensor(task_weights(prompts.tasks), device=self.device)

        steps_of_rows = self._timesteps(prompts)
        per_update = self.num_timesteps // self.updates_per_round
        for update in range(self.updates_per_round):
            for column in range(update * per_update, (update + 1) * per_update):
                for rows in micro_batches(len(prompts), self.micro_batch_size):
                    steps, part = steps_of_rows[rows, column], prompts.select(rows)
                    term = self._loss(
                        part, conditioning.select(rows), clean[rows], steps, advantage[rows], column
                    )
                    losses = term.value * weights[rows] / per_update
                    loss = self.add_gradient(losses, part, steps.tolist())
                    totals["train/loss/nft"] += loss / self.updates_per_round
            totals |= self.gradient_conflict()
            totals["train/gradient_norm"] += self.update() / self.updates_per_round
        decay = self._old_decay(self.global_step)
        blend(self.parameters_of(OLD), self.parameters_of(STUDENT), decay)
        totals["train/old_policy_decay"] += decay
        self.log_dict(dict(totals), sync_dist=True, batch_size=len(prompts))

    @torch.no_grad()
    def _samples(self, prompts: Prompts, conditioning: Conditioning, scoring: RoundScoring) -> Tensor:
        """Clean latents made by the old policy; their images are given to be scored."""
        parts = []
        for rows in micro_batches(len(prompts), self.micro_batch_size):
            *_, last = self.rollout(self.sampler, prompts.select(rows), conditioning.select(rows), OLD)
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

    def _loss(
        self,
        prompts: Prompts,
        conditioning: Conditioning,
        clean: Tensor,
        steps: Tensor,
        advantage: Tensor,
        column: int,
    ) -> Any:
        """The NFT loss of some rows, each at its own noise level with fresh noise."""
        scale = self.sampler.guidance_scale
        sigma = self.sampler.sigmas()[steps].to(self.device)
        latent = interpolate(clean, self.noise(f"nft/noise/{column}", prompts), sigma)
        with torch.no_grad():
            velocity_old = self.velocity(latent, sigma, conditioning, OLD, scale)
            reference = (
                self.velocity(latent, sigma, conditioning, None, scale) if self.loss.needs_reference else None
            )
        velocity = self.velocity(latent, sigma, conditioning, STUDENT, scale)
        return self.loss(velocity, velocity_old, reference, latent, sigma, clean, advantage)

    def _old_decay(self, step: int) -> float:
        if self.old_policy["decay_type"] is not None:
            return old_policy_decay(step, self.old_policy["decay_type"])
        ramp = {key: self.old_policy[key] for key in ("start", "rate", "cap")}
        return ramp_decay(step, **ramp)
