"""The drawn world's shapes, as coverage masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

_SUPERSAMPLING = 4


def _circle(x: NDArray, y: NDArray) -> NDArray:
    return x**2 + y**2 <= 1


def _square(x: NDArray, y: NDArray) -> NDArray:
    return np.maximum(np.abs(x), np.abs(y)) <= 0.88


def _triangle(x: NDArray, y: NDArray) -> NDArray:
    return (y <= 0.9) & (2 * np.abs(x) <= y + 1.0)


def _cross(x: NDArray, y: NDArray) -> NDArray:
    arm = np.minimum(np.abs(x), np.abs(y)) <= 0.34
    return arm & (np.maximum(np.abs(x), np.abs(y)) <= 1)


def _ring(x: NDArray, y: NDArray) -> NDArray:
    radius = np.sqrt(x**2 + y**2)
    return (radius <= 1) & (radius >= 0.5)


_INSIDE: dict[str, Callable[[NDArray, NDArray], NDArray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}

SHAPES: tuple[str, ...] = tuple(_INSIDE)
"""Names of the shapes, in the order the detector numbers them."""

PLURALS: dict[str, str] = {name: "crosses" if name == "cross" else name + "s" for name in SHAPES}


@cache
def shape_mask(name: str, size: int) -> NDArray[np.float32]:
    """Antialiased coverage of a shape in its bounding square.

    Args:
        name: One of ``SHAPES``.
        size: Side of the square in pixels.

    Returns:
        Array ``(size, size)`` in [0, 1]; do not write to it, it is shared.
    """
    fine = (np.arange(size * _SUPERSAMPLING) + 0.5) / (size * _SUPERSAMPLING) * 2 - 1
    x, y = np.meshgrid(fine, fine)
    inside = _INSIDE[name](x, y).astype(np.float32)
    mask = inside.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean(axis=(1, 3))
    mask.setflags(write=False)
    return mask
