"""Online DPO: of the samples of a prompt the best by the reward is preferred to the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.loss import DPO
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.by_task import task_weights
from diffopd.phase.micro_batch import halves
from diffopd.phase.noise_levels import grid_levels
from diffopd.phase.pair_sides import pair_sides
from diffopd.phase.round_scoring import RoundScoring
from diffopd.phase.scored_phase import REWARD, ScoredPhase
from diffopd.phase.settings import ScoredSettings
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.sampler import TransitionSampler
from diffopd.types import Conditioning, Prompts, Reward


@dataclass(frozen=True)
class Pairs:
    """Of each prompt of a round its best sample and its worst.

    Attributes:
        best: Rows of the samples that are preferred, one per prompt.
        worst: Rows of those that they are preferred to.
        tied: Whether all samples of the prompt got the same reward, so that there is nothing to prefer.
    """

    best: list[int]
    worst: list[int]
    tied: list[bool]


def best_and_worst(rewards: Float[Tensor, " batch"], groups: Sequence[int], tasks: Sequence[str]) -> Pairs:
    """The pair of each prompt, in the order in which prompts come; of equal rewards the first sample's.

    Args:
        rewards: One per sample.
        groups: Samples of one task with equal numbers share a prompt.
        tasks: Task of each sample.

    Examples:
        >>> best_and_worst(torch.tensor([0.1, 0.7, 0.4, 0.2, 0.2]), [0, 0, 0, 1, 1], ["ocr"] * 5)
        Pairs(best=[1, 3], worst=[0, 3], tied=[False, True])
    """
    rows_of: dict[tuple[str, int], list[int]] = {}
    for row, prompt in enumerate(zip(tasks, groups, strict=True)):
        rows_of.setdefault(prompt, []).append(row)
    values = rewards.tolist()
    best = [max(rows, key=values.__getitem__) for rows in rows_of.values()]
    worst = [min(rows, key=values.__getitem__) for rows in rows_of.values()]
    tied = [values[high] == values[low] for high, low in zip(best, worst, strict=True)]
    return Pairs(best, worst, tied)


@final
class OnlineDPOPhase(ScoredPhase):
    """Diffusion-DPO on the policy's own samples, ranked by a reward as they come.

    A round: the policy draws a group of samples of each prompt; the best is preferred to the worst. Both are
    noised to one level of the sampler's grid with one noise. Each of a few updates sees some of the levels.
    A prompt whose samples all got the same reward teaches nothing and counts all the same, so that an update
    does not depend on how prompts are shared among processes.

    Args:
        model: The frozen text-to-image model, which is the reference.
        adapter: Shape of the trained policy.
        sampler: Sampler of the rollouts, whose grid has the noise levels.
        loss: Of a pair.
        reward: What decides which sample is preferred.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases whose samples are scored.
        num_timesteps: Noise levels each pair is trained at in a round, a multiple of ``updates_per_round``.
        updates_per_round: Optimizer steps in a round, which share the levels.
        loss_guidance_scale: Guidance of policy and reference in the loss; None = the sampler's.

    Attributes:
        supervision: What its loss learns from.
        ranks_samples: That samples of one prompt are compared, so that there must be several.
        round_kind: What a round takes, for ``doctor``.

    References:
        Wallace et al., 2023, arXiv:2311.12908, for the loss. That the best and the worst of a group make its
        pair was read in a training script that follows Flow-GRPO's online DPO (arXiv:2505.05470).
    """

    supervision: ClassVar[str] = "preference"
    ranks_samples: ClassVar[bool] = True
    round_kind: ClassVar[str] = "reward_learning"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        loss: DPO,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: ScoredSettings,
        num_timesteps: int,
        updates_per_round: int,
        loss_guidance_scale: int | float | None = None,
    ) -> None:
        if num_timesteps < 1 or num_timesteps % updates_per_round:
            raise ValueError(
                f"phase.num_timesteps={num_timesteps} must be at least 1 and a multiple of "
                f"phase.updates_per_round={updates_per_round}"
            )
        super().__init__(
            model=model,
            adapter=adapter,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
            loss_guidance_scale=loss_guidance_scale,
        )
        self.loss = loss
        self.num_timesteps, self.updates_per_round = num_timesteps, updates_per_round

    @property
    def updates_in_round(self) -> int:
        """As ``phase.updates_per_round`` says."""
        return self.updates_per_round

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: samples, their rewards, a pair of each prompt, a few updates."""
        conditioning = self.conditioning(prompts)
        with finite_rewards_everywhere(self.device), self.scoring(prompts) as scoring:
            clean = self._samples(prompts, conditioning, scoring)
            found = scoring.result()
        self.watch(clean, prompts, found, len(prompts))
        pairs = best_and_worst(found.scores[REWARD].value, prompts.groups, prompts.tasks)
        chosen, given = prompts.select(pairs.best), conditioning.select(pairs.best)
        weights = self._weights(chosen, pairs)
        per_update = self.num_timesteps // self.updates_per_round
        for update in range(self.updates_per_round):
            for number in range(update * per_update, (update + 1) * per_update):
                for rows in halves(self.micro_batches(len(chosen)), self.settings.micro_batch_size):
                    pictures = (
                        clean[[pairs.best[row] for row in rows]],
                        clean[[pairs.worst[row] for row in rows]],
                    )
                    share = weights[rows] / per_update
                    losses = self._losses(chosen.select(rows), given.select(rows), pictures, share, number)
                    self.add_gradient(losses, chosen.select(rows), None)
            self.round_log.put(self.gradient_conflict())
            self.round_log.add("train/gradient_norm", self.update() / self.updates_per_round)
        self.log_round(prompts)

    def _weights(self, chosen: Prompts, pairs: Pairs) -> Tensor:
        """What each pair weighs: prompts are averaged within their task, then tasks; tied ones weigh 0."""
        weights = torch.tensor(task_weights(chosen.tasks), device=self.device)
        tied = torch.tensor(pairs.tied, device=self.device)
        self.round_log.add("train/preference/tied_share", (weights * tied).sum())
        return weights * ~tied

    @torch.no_grad()
    def _samples(self, prompts: Prompts, conditioning: Conditioning, scoring: RoundScoring) -> Tensor:
        """Clean latents of the policy's samples; their images are given to be scored."""
        parts = []
        for rows in self.micro_batches(len(prompts)):
            policy, part = self.student, prompts.select(rows)
            *_, last = self.rollout(self.sampler, part, conditioning.select(rows), policy)
            parts.append(last.next_latent.float())
            scoring.add(self.images(last.next_latent))
        return torch.cat(parts)

    def _losses(
        self,
        prompts: Prompts,
        conditioning: Conditioning,
        pictures: tuple[Tensor, Tensor],
        share: Tensor,
        number: int,
    ) -> Tensor:
        """Weighted losses of some pairs, each at a noise level of its own with one fresh noise for both."""
        sigma = self.sigmas(number, prompts)
        noise = self.noise(f"online_dpo/noise/{number}", prompts)
        reference = self.base if self.loss.needs_reference else None
        term = self.loss(
            *pair_sides(
                *(self.student, reference, conditioning, pictures, noise, sigma),
                guidance_scale=self.loss_guidance,
            )
        )
        losses = share * term.value
        log, metrics, updates = self.round_log, term.metrics, self.updates_per_round
        log.add("train/loss/preference", losses.detach().sum() / updates)
        log.add("train/preference/margin", (share * metrics["margin"]).sum() / updates)
        log.add("train/preference/won_share", (share * (metrics["margin"] > 0)).sum() / updates)
        log.add("train/preference/rejected_gap", (share * metrics["rejected_gap"]).sum() / updates)
        return losses

    def sigmas(self, number: int, prompts: Prompts) -> Tensor:
        """One of the grid's levels for each pair."""
        draw = (self.seed, f"online_dpo/sigma/{number}", self.round, prompts.indices)
        return grid_levels(*draw, self.sampler.sigmas()).to(self.device)
