"""Means over the rows of each task: weights of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def task_weights(tasks: Sequence[str], counts: Mapping[str, int] | None = None) -> list[float]:
    """Weight of each row so that rows are averaged within their task, and tasks among themselves.

    Args:
        tasks: Task of each row.
        counts: Rows of each task in the whole, if ``tasks`` are some of its rows; None if they are all.
    """
    counts = Counter(tasks) if counts is None else counts
    return [1 / (len(counts) * counts[task]) for task in tasks]
