"""Some rows of a round, what each weighs, and whom they learn from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffopd.phase.by_task import task_weights
from diffopd.phase.processes import largest
from diffopd.types import Conditioning, Prompts, VelocityFunction


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a round of distillation that go through the networks together.

    Attributes:
        prompts: The rows.
        conditioning: What the student is told about them.
        weights: Weight of each row's loss.
        target: Velocity of whoever teaches them, without gradient.
        anchor: Velocity of the regulariser's model, without gradient.
    """

    prompts: Prompts
    conditioning: Conditioning
    weights: Tensor
    target: VelocityFunction
    anchor: VelocityFunction


def micro_batches(num_rows: int, size: int | None) -> list[list[int]]:
    """Row numbers in runs of at most ``size``, or in one run if it is None."""
    step = size or max(1, num_rows)
    return [list(range(start, min(start + step, num_rows))) for start in range(0, num_rows, step)]


def micro_batches_by_size(
    sizes: Sequence[Hashable], size: int | None, *, in_step: bool = False
) -> list[list[int]]:
    """The same, of rows that go together only if their latents are of one size; the first row's come first.

    Args:
        sizes: Of each row's latent.
        size: Most rows together; None for no limit.
        in_step: Have as many as every other process, which has as many rows: a forward needs all processes.

    Examples:
        >>> micro_batches_by_size(["wide", "high", "wide", "wide"], 2)
        [[0, 2], [3], [1]]
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, of_row in enumerate(sizes):
        rows_of.setdefault(of_row, []).append(row)
    parts = [
        [rows[place] for place in part]
        for rows in rows_of.values()
        for part in micro_batches(len(rows), size)
    ]
    return halved_to(parts, largest(len(parts))) if in_step else parts


def halved_to(parts: Sequence[Sequence[int]], number: int) -> list[list[int]]:
    """Halve the longest of some micro-batches, again and again, until there are so many.

    Examples:
        >>> halved_to([[0, 2, 3], [1]], 3)
        [[0, 2], [3], [1]]
    """
    found = [list(part) for part in parts]
    while len(found) < number:
        place = max(range(len(found)), key=lambda place: len(found[place]))
        middle = (len(found[place]) + 1) // 2
        found[place : place + 1] = [found[place][:middle], found[place][middle:]]
    return found


def halves(parts: Sequence[Sequence[int]], size: int | None) -> list[list[int]]:
    """Micro-batches of at most half of ``size`` rows, where each row has two pictures in a forward.

    Examples:
        >>> halves([[0, 2, 3], [1]], 4)
        [[0, 2], [3], [1]]
    """
    half = None if size is None else max(1, size // 2)
    return [[part[row] for row in few] for part in parts for few in micro_batches(len(part), half)]


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
