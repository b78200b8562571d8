"""Random figures without a name: polygons in two colors, some with a hole, drawn from their index.

They are what references are learned from: a text can name a figure's colors and its place, never its form.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffopd.randomness import numpy_generator

_SUPERSAMPLING = 4
_CORNERS = (3, 8)
"""Least number of corners, and one above the largest."""
_RADII = (0.45, 1.0)
"""Of the corners, as seen from the middle, before the figure is stretched to its square."""
_HELD_OUT_ONE_IN = 8
NUM_FIGURES = 2**31
"""Indices run from 0 to one below this."""


def is_held_out_figure(index: int) -> bool:
    """Whether a figure is kept for evaluation: no training picture shows it."""
    return index % _HELD_OUT_ONE_IN == 0


def random_figure(rng: np.random.Generator, held_out: bool = False) -> int:
    """Index of a random figure from the training or from the evaluation side."""
    block = int(rng.integers(NUM_FIGURES // _HELD_OUT_ONE_IN))
    return _HELD_OUT_ONE_IN * block + (0 if held_out else int(rng.integers(1, _HELD_OUT_ONE_IN)))


@lru_cache(maxsize=4096)
def figure_masks(index: int, size: int) -> NDArray[np.float32]:
    """Antialiased coverage of a figure's two colors in its bounding square.

    Its outline is a star-shaped polygon. A straight line or a smaller copy of the outline divides it into two
    colors; every second figure has a round hole.

    Args:
        index: Which figure, from 0 to ``NUM_FIGURES - 1``.
        size: Side of the square in pixels.

    Returns:
        Array ``(2, size, size)`` in [0, 1], whose sum is at most 1; do not write to it, it is shared.
    """
    rng = numpy_generator(0, "figure", index)
    corners = _outline(rng)
    fine = (np.arange(size * _SUPERSAMPLING) + 0.5) / (size * _SUPERSAMPLING) * 2 - 1
    x, y = np.meshgrid(fine, fine)
    inside = _inside(x, y, corners)
    middle = corners.mean(0)
    if rng.random() < 0.5:
        angle, drift = rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15)
        second = (x - middle[0]) * np.cos(angle) + (y - middle[1]) * np.sin(angle) > drift
    else:
        second = _inside(x, y, middle + rng.uniform(0.45, 0.65) * (corners - middle))
    if rng.random() < 0.5:
        away = middle + rng.uniform(-0.2, 0.2, size=2)
        inside &= (x - away[0]) ** 2 + (y - away[1]) ** 2 > rng.uniform(0.2, 0.35) ** 2
    parts = np.stack([inside & ~second, inside & second]).astype(np.float32)
    masks = parts.reshape(2, size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean(axis=(2, 4))
    masks.setflags(write=False)
    return masks


def _outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """Corners ``(number, 2)`` in turn around the middle; they touch all sides of the square from -1 to 1."""
    number = int(rng.integers(*_CORNERS))
    turn = rng.uniform(0, 2 * np.pi)
    angles = turn + 2 * np.pi * (np.arange(number) + rng.uniform(-0.3, 0.3, size=number)) / number
    radii = rng.uniform(*_RADII, size=number)
    corners = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    low, high = corners.min(0), corners.max(0)
    return 2 * (corners - low) / (high - low) - 1


def _inside(x: NDArray, y: NDArray, corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points lie in a polygon: a ray to the right crosses its rim an odd number of times."""
    found = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            found ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return found
