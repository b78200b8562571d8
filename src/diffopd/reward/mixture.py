"""Several rewards as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.advantage import group_advantages
from diffopd.reward.checked import RewardError, Sample, check_prompt, score_checked
from diffopd.types import Prompts, Reward, Scores

Normalize = Literal["none", "per_group"]


class MixtureReward:
    """The weighted mean of several rewards, each in its own scale or standardized among a prompt's samples.

    Args:
        rewards: The members by name.
        weights: A positive number for each member; only their ratios matter, so 1, 1, 1 is the plain mean.
        normalize: ``"none"`` takes the members as they are, so that one of wide range outweighs one of narrow
            range; ``"per_group"`` first turns each into ``(reward - group mean) / (group std + 1e-4)``, where
            a group is all samples of one prompt in the batch. Its mean over a group is 0: good to train on,
            useless to measure with.
    """

    def __init__(
        self, *, rewards: Mapping[str, Reward], weights: Mapping[str, float], normalize: Normalize
    ) -> None:
        if not rewards or set(rewards) != set(weights):
            raise ValueError(
                f"reward.weights must name each reward once, got weights for {sorted(weights)} and rewards "
                f"{sorted(rewards)}"
            )
        if min(weights.values()) <= 0:
            raise ValueError(
                f"reward.weights must be positive, got {dict(weights)}; leave out rewards that should not "
                "count"
            )
        if normalize not in get_args(Normalize):
            raise ValueError(f"reward.normalize={normalize} must be one of {', '.join(get_args(Normalize))}")
        self.rewards = dict(rewards)
        self.weights = {name: float(weights[name]) for name in rewards}
        self.normalize: Normalize = normalize

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score with each member; ``parts`` has each member's own value by its name, never normalized.

        Raises:
            RewardError: If a member fails, or if a prompt has a single sample to be compared with none.
        """
        members = {
            name: score_checked(reward, images, prompts, f"rewards.{name}")
            for name, reward in self.rewards.items()
        }
        parts = {name: scores.value for name, scores in members.items()}
        scale = "weighted mean of " + "; ".join(f"{name}: {scores.scale}" for name, scores in members.items())
        weighed = parts
        if self.normalize == "per_group":
            groups = self._groups(images, prompts)
            weighed = {n: group_advantages(value, groups, std="group") for n, value in parts.items()}
            scale += "; each in standard deviations among the samples of a prompt"
        total = sum(self.weights.values())
        value = torch.stack([weighed[n] * (w / total) for n, w in self.weights.items()]).sum(0)
        return Scores(value, parts, scale)

    def check_prompt(self, prompt: Prompts) -> None:
        """Have each member check the prompt.

        Raises:
            ValueError: If one does.
        """
        for member in self.rewards.values():
            check_prompt(member, prompt)

    def _groups(self, images: Tensor, prompts: Prompts) -> list[int]:
        """A number for each row, the same for samples of one prompt of one task."""
        numbers: dict[tuple[str, int], int] = {}
        keys = zip(prompts.tasks, prompts.groups, strict=True)
        groups = [numbers.setdefault(key, len(numbers)) for key in keys]
        sizes = Counter(groups)
        for row, group in enumerate(groups):
            if sizes[group] == 1:
                sample = Sample.of(images, prompts, row)
                problem = (
                    f"compares the samples of a prompt, but {sample} is the only one of its prompt; set "
                    "data.tasks.<task>.group_size to 2 or more, or normalize=none"
                )
                raise RewardError(type(self).__name__, "normalize=per_group", problem, sample)
        return groups
