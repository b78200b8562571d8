"""What phases share whose samples are scored, as they come, to be learned from."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.metric.drift import drift_signals
from diffopd.model import PipelineModel
from diffopd.phase.guidance import loss_guidance
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import num_processes
from diffopd.phase.round_scoring import RoundScoring, Scored
from diffopd.phase.scoring import scored
from diffopd.phase.settings import ScoredSettings
from diffopd.policy import OptimizerFactory
from diffopd.sampler import TransitionSampler
from diffopd.types import Prompts, Reward, Scores

REWARD = "reward"
"""Name of the trained reward among those of a round, and its place in the config."""


class ScoredPhase(PolicyPhase):
    """Base of the phases that learn from rewards of their own samples.

    Args:
        model: The frozen text-to-image model, which is the reference.
        adapter: Shape of the trained policy.
        sampler: Sampler of the rollouts, at its guidance scale.
        reward: What to maximize.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases whose samples are scored.
        loss_guidance_scale: Guidance of the trained policy in the loss; None = the sampler's.

    Attributes:
        settings_type: Type of ``settings``.
        loss_guidance: Guidance of all networks in the loss.
    """

    settings_type: ClassVar[type[ScoredSettings]] = ScoredSettings
    settings: ScoredSettings

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: ScoredSettings,
        loss_guidance_scale: int | float | None,
    ) -> None:
        super().__init__(model=model, adapter=adapter, optimizer=optimizer, settings=settings)
        self.sampler, self.reward = sampler, reward
        self.loss_guidance = loss_guidance(loss_guidance_scale, sampler)
        self.held_out = dict(settings.held_out)

    def scoring(self, prompts: Prompts) -> RoundScoring:
        """Takes the round's images and scores them, by the reward and those held out."""
        in_background = self.settings.score_in_background
        return RoundScoring(prompts, self._score, in_background=in_background, device=self.device)

    def _score(self, images: Tensor, prompts: Prompts) -> dict[str, Scores]:
        """Scores by the reward, named ``reward``, and by those held out, named by their places."""
        scores = {REWARD: scored(self, self.reward, images, prompts, REWARD)}
        for name, reward in self.held_out.items():
            path = f"phase.held_out.{name}"
            scores[path] = scored(self, reward, images, prompts, path)
        return scores

    @torch.no_grad()
    def watch(self, clean: Tensor, prompts: Prompts, found: Scored, num_samples: int) -> None:
        """Log rewards, those held out among them, signs of drift, and the cost.

        Args:
            clean: Latents of samples of the policy.
            prompts: Their prompts.
            found: Their images and scores.
            num_samples: Samples that were made and scored on this process, these and others.
        """
        log = self.round_log
        log.add_rewards(found.scores[REWARD], prompts)
        log.add("train/cost/images", num_samples * num_processes())
        log.add("train/cost/reward_calls", num_samples * num_processes())
        for name in self.held_out:
            held_out = found.scores[f"phase.held_out.{name}"]
            log.add(f"train/held_out/{name}", held_out.value.mean().to(self.device))
        for name, value in drift_signals(clean.cpu(), found.images, prompts.groups).items():
            log.add(f"train/drift/{name}", value.to(self.device))
