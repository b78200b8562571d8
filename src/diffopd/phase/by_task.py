"""Means over the rows of each task: weights of rows, and what is logged by task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from diffopd.types import Prompts, Scores


def task_weights(tasks: Sequence[str], counts: Mapping[str, int] | None = None) -> list[float]:
    """Weight of each row so that rows are averaged within their task, and tasks among themselves.

    Args:
        tasks: Task of each row.
        counts: Rows of each task in the whole, if ``tasks`` are some of its rows; None if they are all.
    """
    counts = Counter(tasks) if counts is None else counts
    return [1 / (len(counts) * counts[task]) for task in tasks]


def add_by_task(
    totals: defaultdict[str, Tensor],
    prefix: str,
    values: Float[Tensor, " batch"],
    tasks: Sequence[str],
    counts: Mapping[str, int],
) -> None:
    """Add these rows' share of every task's mean to ``<prefix>/<task>``.

    Args:
        totals: What the round logs; new entries are zeros on the training device.
        prefix: E.g. ``train/gap``.
        values: One per row.
        tasks: Task of each row.
        counts: Rows of each task in the whole round on this process.
    """
    for task in dict.fromkeys(tasks):
        _add_share(totals, f"{prefix}/{task}", values, tasks, task, counts)


def add_rewards(
    totals: defaultdict[str, Tensor], scores: Scores, prompts: Prompts, counts: Mapping[str, int]
) -> None:
    """Add these rows' share of every task's mean reward to ``train/reward/<task>``.

    Each part's mean goes to ``train/reward_part/<task>/<part>``, in the part's own scale, whatever a mixture
    makes of it.
    """
    add_by_task(totals, "train/reward", scores.value, prompts.tasks, counts)
    for name, values in scores.parts.items():
        of_task, _, part = name.rpartition("/")
        for task in dict.fromkeys(prompts.tasks):
            if of_task in ("", task):  # a part of another task is NaN on these rows
                total = f"train/reward_part/{task}/{part}"
                _add_share(totals, total, values, prompts.tasks, task, counts)


def _add_share(
    totals: defaultdict[str, Tensor],
    name: str,
    values: Float[Tensor, " batch"],
    tasks: Sequence[str],
    task: str,
    counts: Mapping[str, int],
) -> None:
    """Add the share that one task's rows have in its mean."""
    rows = [row for row, at in enumerate(tasks) if at == task]
    totals[name] = totals[name] + (values[rows].sum() / counts[task]).to(totals[name])
