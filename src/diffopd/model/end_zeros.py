"""Matrices stored without the zeros at the ends of their rows, and made whole again to the bit.

Stable Diffusion 3 pads its CLIP tokens from 2048 numbers to T5's 4096, so a fifth of an encoded prompt is
zeros, and half of one without T5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

BLOCK = 16
"""Numbers that are left out together. By chance no encoder gives so many zeros, so rows of one origin have
one width and a prompt has few runs."""

Runs = Sequence[Sequence[int]]
"""Rows that follow each other and have one width: ``[number of rows, width]`` each."""


def without_end_zeros(matrix: Shaped[Tensor, "row column"]) -> tuple[Shaped[Tensor, " kept"], Runs]:
    """What has to be stored of a matrix, and how it is laid out.

    A zero is a number all of whose bits are 0; -0.0 is none and is kept.

    Args:
        matrix: Contiguous, on the CPU.

    Returns:
        The kept numbers in one row, and the runs they come from. A matrix without zeros to leave out is not
        copied.

    Examples:
        >>> kept, runs = without_end_zeros(torch.cat([torch.eye(2, 48), torch.ones(1, 48)]))
        >>> len(kept), runs
        (80, [[2, 16], [1, 48]])
    """
    columns = matrix.shape[1]
    held = matrix.view(torch.uint8).ne(0)
    ends = (held * torch.arange(1, held.shape[1] + 1)).amax(1)  # in bytes
    blocks = ends.add(BLOCK * matrix.element_size() - 1) // (BLOCK * matrix.element_size())
    widths, counts = (blocks * BLOCK).clamp(max=columns).unique_consecutive(return_counts=True)
    runs = [[int(count), int(width)] for count, width in zip(counts, widths, strict=True)]
    if all(width == columns for _, width in runs):
        return matrix.flatten(), runs
    parts = zip(matrix.split(counts.tolist()), widths.tolist(), strict=True)
    return torch.cat([rows[:, :width].flatten() for rows, width in parts]), runs


def with_end_zeros(kept: Shaped[Tensor, " kept"], runs: Runs, columns: int) -> Shaped[Tensor, "row column"]:
    """The matrix that :func:`without_end_zeros` was given; not copied if it had no zeros to leave out.

    Args:
        kept: Its numbers.
        runs: Where they belong.
        columns: Its width.

    Raises:
        ValueError: If there are more numbers, or fewer, than the runs take.
    """
    if kept.numel() != sum(count * width for count, width in runs):
        raise ValueError(f"{kept.numel()} numbers do not fill {runs}")
    if all(width == columns for _, width in runs):
        return kept.view(-1, columns)
    matrix = kept.new_zeros((sum(count for count, _ in runs), columns))
    parts = kept.split([count * width for count, width in runs])
    row = 0
    for (count, width), part in zip(runs, parts, strict=True):
        matrix[row : row + count, :width] = part.view(count, width)
        row += count
    return matrix
