"""The drawn world's letters: bold bitmaps without the pairs that readers confuse (O/0, I/1)."""

from __future__ import annotations

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
