"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.checked import score_checked
from diffopd.types import Prompts, Reward, Scores


class MixtureReward:
    """The weighted mean of several rewards.

    Args:
        rewards: The members by name.
        weights: A positive number for each member; only their ratios matter, so 1, 1, 1 is the plain mean.
    """

    def __init__(self, *, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        if not rewards or set(rewards) != set(weights):
            raise ValueError(
                f"reward.weights must name each reward once, got weights for {sorted(weights)} and rewards "
                f"{sorted(rewards)}"
            )
        if min(weights.values()) <= 0:
            raise ValueError(
                f"reward.weights must be positive, got {dict(weights)}; leave out what shall not count"
            )
        self.rewards = dict(rewards)
        self.weights = {name: float(weights[name]) for name in rewards}

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score with each member; ``parts`` has each member's value by its name."""
        members = {
            name: score_checked(reward, images, prompts, f"rewards.{name}")
            for name, reward in self.rewards.items()
        }
        total = sum(self.weights.values())
        value = torch.stack([members[n].value * (w / total) for n, w in self.weights.items()]).sum(0)
        parts = {name: scores.value for name, scores in members.items()}
        scale = "weighted mean of " + "; ".join(f"{name}: {scores.scale}" for name, scores in members.items())
        return Scores(value, parts, scale)
