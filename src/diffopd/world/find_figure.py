"""Finds one random figure in an image, by matching its own masks at every place and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d

from diffopd.world.colours import COLOURS
from diffopd.world.detect import colour_shares
from diffopd.world.figure_request import POSITIONS, SIZES, figure_corners, figure_side
from diffopd.world.figures import figure_masks
from diffopd.world.scene import IMAGE_SIZE

_NAMES = tuple(COLOURS)
_OFF = 1
"""Units by which a figure may be off its place."""


@dataclass(frozen=True)
class AskedFigure:
    """A figure as a prompt asks for it.

    Attributes:
        index: Which figure.
        colours: Names of its two colors, or None for any two.
        size: A key of ``SIZES``, or None for any.
        position: One of ``POSITIONS``, or None for any.
    """

    index: int
    colours: tuple[str, str] | None = None
    size: str | None = None
    position: str | None = None


@dataclass(frozen=True)
class FoundFigure:
    """How well a figure overlaps an image, by the soft Dice coefficient in [0, 1].

    Attributes:
        asked: Where, as large and in the colors that it was asked for.
        anywhere: Anywhere, of any size, in the asked colors.
    """

    asked: float
    anywhere: float


def find_figure(
    image: NDArray[np.number], figure: AskedFigure, *, max_residual: float, background_chroma: float
) -> FoundFigure:
    """Look for a figure in an image.

    The overlap is that of the figure's two masks, each with the share of its color, over all that is of the
    palette's colors in the image: another object beside it, a wrong form and a wrong color lower it alike.

    Args:
        image: Shape (side, side, 3), 8-bit units; the side is a multiple of ``IMAGE_SIZE`` units.
        figure: What is asked for.
        max_residual: As in :func:`~diffopd.world.detect.colour_shares`.
        background_chroma: As there.

    Raises:
        ValueError: If the image has another side.
    """
    side, detail = image.shape[0], image.shape[0] // IMAGE_SIZE
    if image.shape[:2] != (side, side) or side != detail * IMAGE_SIZE or detail < 1:
        raise ValueError(
            f"figures are found in square drawings of a multiple of {IMAGE_SIZE} pixels, got "
            f"{image.shape[0]} x {image.shape[1]}"
        )
    shares, leading = colour_shares(image, max_residual=max_residual, background_chroma=background_chroma)
    own = np.where(leading == np.arange(len(_NAMES))[:, None, None], shares, 0)
    energy = float((own**2).sum())
    if energy == 0:
        return FoundFigure(0.0, 0.0)
    pairs = [figure.colours] if figure.colours else list(permutations(_NAMES, 2))
    asked = anywhere = 0.0
    for size in SIZES:
        overlap = _overlap(own, energy, figure.index, figure_side(size) * detail, pairs)
        anywhere = max(anywhere, float(overlap.max()))
        if figure.size in (None, size):
            asked = max(asked, float(overlap[_allowed(figure.position, size, detail, overlap.shape)].max()))
    return FoundFigure(asked, anywhere)


def _overlap(
    own: NDArray[np.floating], energy: float, index: int, size: int, pairs: Sequence[tuple[str, str]]
) -> NDArray[np.float32]:
    """Dice overlap of the best pair of colors, by the top and left corner of the figure's square."""
    kernel, squares = _kernel(index, size)
    maps = conv2d(torch.from_numpy(own).float()[:, None], kernel).numpy()  # color, part, top, left
    shared = np.max([maps[_NAMES.index(a), 0] + maps[_NAMES.index(b), 1] for a, b in pairs], axis=0)
    return 2 * shared / (squares + energy)


@lru_cache(maxsize=256)
def _kernel(index: int, size: int) -> tuple[Tensor, float]:
    """The masks of a figure's two colors as kernels, and their sum of squares."""
    masks = figure_masks(index, size)
    return torch.from_numpy(masks.copy())[:, None], float((masks**2).sum())


def _allowed(position: str | None, size: str, detail: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Corners at which a figure is where it was asked for, within ``_OFF`` units."""
    allowed = np.zeros(shape, bool)
    for name in POSITIONS if position is None else (position,):
        lefts, tops = figure_corners(name, size)
        for left in lefts:
            for top in tops:
                rows = slice(max((top - _OFF) * detail, 0), (top + _OFF) * detail + 1)
                allowed[rows, max((left - _OFF) * detail, 0) : (left + _OFF) * detail + 1] = True
    return allowed
