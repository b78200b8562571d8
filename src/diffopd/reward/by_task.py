"""Each row scored by the reward of its own task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.checked import check_prompt, score_checked
from diffopd.types import Prompts, Reward, Scores


class RewardByTask:
    """A reward for batches that mix tasks.

    Args:
        rewards: The reward of each task, by the name that ``Prompts.tasks`` uses.
    """

    one_per_task: ClassVar[bool] = True

    def __init__(self, *, rewards: Mapping[str, Reward]) -> None:
        self.rewards = dict(rewards)

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """One value per row; ``parts`` are named ``task/part`` and are NaN on the rows of other tasks."""
        value = images.new_zeros(len(prompts), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        scored = self.by_task(images, prompts)
        for task, (rows, scores) in scored.items():
            value[rows] = scores.value.to(value)
            for name, values in scores.parts.items():
                part = parts.setdefault(f"{task}/{name}", torch.full_like(value, torch.nan))
                part[rows] = values.to(value)
        return Scores(
            value, parts, "; ".join(f"{task}: {scores.scale}" for task, (_, scores) in scored.items())
        )

    def check_prompt(self, prompt: Prompts) -> None:
        """Have the reward of the prompt's task check it.

        Raises:
            ValueError: If it does.
        """
        check_prompt(self.rewards.get(prompt.tasks[0]), prompt)

    def by_task(self, images: Tensor, prompts: Prompts) -> dict[str, tuple[list[int], Scores]]:
        """For each task in the batch, its row numbers and their scores.

        Raises:
            ValueError: If a row's task has no reward.
        """
        return {
            task: (
                rows,
                score_checked(self.rewards[task], images[rows], prompts.select(rows), f"rewards.{task}"),
            )
            for task, rows in self._rows(prompts.tasks).items()
        }

    def _rows(self, tasks: Sequence[str]) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, task in enumerate(tasks):
            if task not in self.rewards:
                raise ValueError(
                    f"task '{task}' of row {row} has no reward; reward.rewards has {sorted(self.rewards)}"
                )
            rows.setdefault(task, []).append(row)
        return rows
