"""The drawn world's letters: bold bitmaps without the pairs that readers confuse (O/0, I/1)."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

GLYPH_HEIGHT = 10
SLOT_WIDTH = 8
"""Letters stand in fixed slots of this many pixels, two of the model's tokens wide."""
NUM_SLOTS = 4

_ROWS: dict[str, str] = {
    "A": ".####. ###### ##..## ##..## ##..## ###### ###### ##..## ##..## ##..##",
    "C": ".####. ###### ##..## ##.... ##.... ##.... ##.... ##..## ###### .####.",
    "E": "###### ###### ##.... ##.... #####. #####. ##.... ##.... ###### ######",
    "K": "##..## ##..## ##.### #####. ####.. ####.. #####. ##.### ##..## ##..##",
    "L": "##.... ##.... ##.... ##.... ##.... ##.... ##.... ##.... ###### ######",
    "M": "##...## ###.### ####### ####### ##.#.## ##.#.## ##...## ##...## ##...## ##...##",
    "N": "##...## ###..## ###..## ####.## ##.#.## ##.#.## ##.#### ##..### ##..### ##...##",
    "P": "#####. ###### ##..## ##..## ###### #####. ##.... ##.... ##.... ##....",
    "R": "#####. ###### ##..## ##..## ###### #####. ####.. ##.##. ##..## ##..##",
    "S": ".##### ###### ##.... ##.... #####. .##### ....## ....## ###### #####.",
    "T": "###### ###### ..##.. ..##.. ..##.. ..##.. ..##.. ..##.. ..##.. ..##..",
    "X": "##..## ##..## .####. .####. ..##.. ..##.. .####. .####. ##..## ##..##",
}

LETTERS: str = "".join(_ROWS)
"""The letters that signs may use."""

GLYPHS: dict[str, NDArray[np.bool_]] = {
    letter: np.array([[pixel == "#" for pixel in row] for row in rows.split()])
    for letter, rows in _ROWS.items()
}
"""Bitmaps of shape ``(GLYPH_HEIGHT, width)``; ``M`` and ``N`` are one pixel wider than the rest."""


@cache
def glyph_mask(letter: str, detail: int) -> NDArray[np.bool_]:
    """A letter's bitmap with ``detail`` pixels for each of its own, 1 or 2; do not write to it, it is shared.

    Where two strokes meet in a stair, its corners are cut, so that slanting strokes slant.

    Raises:
        ValueError: If no such detail is drawn.
    """
    glyph = GLYPHS[letter]
    if detail == 1:
        return glyph
    if detail != 2:
        raise ValueError(f"letters are drawn with a detail of 1 or 2, got {detail}")
    # Scale2x: a quarter of a pixel takes the color of two equal neighbors beside it that face unequal ones.
    around = np.pad(glyph, 1)
    up, down = around[:-2, 1:-1], around[2:, 1:-1]
    left, right = around[1:-1, :-2], around[1:-1, 2:]
    fine = glyph.repeat(2, 0).repeat(2, 1)
    for row, (beside, opposite) in enumerate(((up, down), (down, up))):
        for column, (near, far) in enumerate(((left, right), (right, left))):
            corner = (beside == near) & (beside != far) & (near != opposite)
            fine[row::2, column::2] = np.where(corner, beside, glyph)
    fine.setflags(write=False)
    return fine
