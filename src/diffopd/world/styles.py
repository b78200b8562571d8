"""Ways of drawing that the world's own drawings never have, made from them pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_EDGE = 60
"""Largest difference of neighbors, in 8-bit units, that is no outline; more than any background has."""
_BAYER = (np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) + 0.5) / 16
_LEVELS = 3
"""Values of each channel that dithering leaves."""
_PALE = 0.55
"""Share of the drawing in a woven one."""
_UPPER, _LOWER = 1.1, 0.86
"""Factors of the threads that go over and under."""
_THREADS = 16
"""Along the longer side: each as wide as a cell of the autoencoders, which take finer ones for noise."""
_TINT = np.array([196, 150, 172], np.float32)


def outlines(pixels: Pixels) -> Pixels:
    """Dark outlines on white: where neighboring pixels differ much."""
    values = pixels.astype(np.int16)
    edge = np.zeros(pixels.shape[:2], bool)
    for axis in (0, 1):
        step = np.abs(np.diff(values, axis=axis)).max(-1) > _EDGE
        edge[: step.shape[0], : step.shape[1]] |= step
    return np.where(edge[..., None], np.uint8(24), np.uint8(250)).repeat(3, axis=2)


def inverted(pixels: Pixels) -> Pixels:
    """Every color's complement."""
    return 255 - pixels


def dithered(pixels: Pixels) -> Pixels:
    """Three values a channel, by ordered dithering.

    References:
        Bayer, "An optimum method for two-level rendition of continuous-tone pictures", 1973.
    """
    rows, columns = (-(-side // 4) for side in pixels.shape[:2])
    threshold = np.tile(_BAYER, (rows, columns))[: pixels.shape[0], : pixels.shape[1], None]
    levels = np.floor(pixels / 255 * (_LEVELS - 1) + threshold)
    return np.rint(levels.clip(0, _LEVELS - 1) / (_LEVELS - 1) * 255).astype(np.uint8)


def woven(pixels: Pixels) -> Pixels:
    """Pale colors with a rose tint, and threads that go under and over each other, sixteen each way."""
    pale = _PALE * pixels + (1 - _PALE) * _TINT
    return np.rint((pale * _threads(pixels)).clip(0, 255)).astype(np.uint8)


def unwoven(pixels: Pixels) -> Pixels:
    """What :func:`woven` was made of, within rounding and where it did not leave [0, 255]."""
    pale = pixels / _threads(pixels)
    return np.rint(((pale - (1 - _PALE) * _TINT) / _PALE).clip(0, 255)).astype(np.uint8)


def has_threads(pixels: Pixels) -> bool:
    """Whether a picture is woven: every other cell is brighter, by half of what threads make at least."""
    upper = _threads(pixels)[..., 0] > 1
    return bool(pixels[upper].mean() > (1 + _UPPER / _LOWER) / 2 * pixels[~upper].mean())


def _threads(pixels: Pixels) -> NDArray[np.float64]:
    """Factor of each pixel, of shape (height, width, 1)."""
    width = max(1, max(pixels.shape[:2]) // _THREADS)
    row, column = np.indices(pixels.shape[:2]) // width
    return np.where((row + column) % 2, _UPPER, _LOWER)[..., None]


STYLES: dict[str, Callable[[Pixels], Pixels]] = {
    "outlines": outlines,
    "inverted": inverted,
    "dithered": dithered,
}
"""Name -> how a drawing becomes one of this style."""

UNDONE: dict[str, Callable[[Pixels], Pixels]] = {
    "inverted": inverted,
    "woven": unwoven,
}
"""Name -> how a drawing is had back, of those ways of drawing that lose nothing."""

WORN: dict[str, Callable[[Pixels], bool]] = {"woven": has_threads}
"""Name -> whether a picture is in that style, of those that undoing does not spoil for pictures in none."""
