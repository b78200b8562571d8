"""Some rows of a round of distillation, and what each weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffopd.phase.by_task import task_weights
from diffopd.types import Conditioning, Prompts


@dataclass(frozen=True)
class Part:
    """Some rows of a round.

    Attributes:
        prompts: The rows.
        conditioning: Their encoded prompts.
        weights: Weight of each row's loss.
        routes: Per row, the teachers it learns from and their weights.
        counts: Rows of each task in the whole round on this process.
    """

    prompts: Prompts
    conditioning: Conditioning
    weights: Tensor
    routes: Sequence[Mapping[str, float]]
    counts: Mapping[str, int]


def row_weights(tasks: Sequence[str], balance: Mapping[str, float], *, sum_tasks: bool) -> Tensor:
    """Weights that average rows within their task, and average tasks, or sum them as Algorithm 1 prints.

    Args:
        tasks: Task of each row.
        balance: Weight of each task.
        sum_tasks: Sum over tasks.

    Examples:
        >>> row_weights(["a", "a", "b"], {"a": 1.0, "b": 1.0}, sum_tasks=True)
        tensor([0.5000, 0.5000, 1.0000])
    """
    scale = len(set(tasks)) if sum_tasks else 1
    weights = zip(task_weights(tasks), tasks, strict=True)
    return torch.tensor([weight * scale * balance[task] for weight, task in weights])
