"""Draws scenes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffopd.world.colours import COLOURS, SIGN_COLOURS
from diffopd.world.figures import figure_masks
from diffopd.world.glyphs import GLYPH_HEIGHT, NUM_SLOTS, SLOT_WIDTH, glyph_mask
from diffopd.world.scene import IMAGE_SIZE, Object, PlacedFigure, Scene, Sign
from diffopd.world.shapes import shape_mask

SIDES = (IMAGE_SIZE, 2 * IMAGE_SIZE)
"""Sides in pixels that drawings may have."""

SIGN_TOP = 8
SIGN_HEIGHT = 16

_SHADES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "night": ((18, 22, 44), (44, 50, 78)),
    "fog": ((196, 202, 206), (166, 174, 180)),
    "snow": ((206, 222, 236), (244, 248, 252)),
    "forest": ((150, 170, 146), (84, 102, 84)),
    "desert": ((226, 214, 192), (192, 172, 142)),
    "dusk": ((110, 98, 126), (202, 168, 166)),
}
"""Top and bottom of each background, 8-bit RGB, all of low saturation."""


def draw(scene: Scene, side: int = IMAGE_SIZE) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: What to draw.
        side: Of the picture in pixels: ``IMAGE_SIZE`` or twice that.

    Returns:
        RGB image of shape ``(side, side, 3)``, 8 bits a channel.

    Raises:
        ValueError: If there is no such side.
    """
    if side not in SIDES:
        raise ValueError(f"drawings have {' or '.join(map(str, SIDES))} pixels a side, got {side}")
    detail = side // IMAGE_SIZE
    canvas = _background(scene.place, scene.texture_seed, detail)
    for shape in scene.objects:
        _paint_object(canvas, shape, detail)
    for figure in scene.figures:
        _paint_figure(canvas, figure, detail)
    if scene.sign is not None:
        _paint_sign(canvas, scene.sign, detail)
    return np.rint(canvas.clip(0, 255)).astype(np.uint8)


def _background(place: str, texture_seed: int, detail: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(texture_seed)
    top, bottom = (np.asarray(shade, np.float32) for shade in _SHADES[place])
    shift = rng.normal(0, 7, size=2)
    side = IMAGE_SIZE * detail
    height = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    canvas = (top + shift[0]) * (1 - height) + (bottom + shift[1]) * height
    canvas = np.repeat(canvas, side, axis=1)
    if place in ("night", "snow"):
        # Stars and snowflakes: single bright (or, on snow, slightly darker) spots.
        rows, columns = rng.integers(0, IMAGE_SIZE, size=(2, 14))
        spots = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
        spots[rows, columns] = 70 if place == "night" else -22
        canvas += _enlarged(spots, detail)[..., None]
    elif place in ("forest", "desert"):
        # Trunks stand upright, dunes lie flat.
        along = (np.arange(side) + 0.5) / detail - 0.5
        wave = 9 * np.sin(along * rng.uniform(0.7, 1.1) + rng.uniform(0, 2 * np.pi))
        canvas += wave[None, :, None] if place == "forest" else wave[:, None, None]
    return canvas.astype(np.float32)


def _enlarged(units: NDArray[Any], detail: int) -> NDArray[Any]:
    return units.repeat(detail, 0).repeat(detail, 1)


def _paint_object(canvas: NDArray[np.float32], item: Object, detail: int) -> None:
    rows = slice(item.top * detail, (item.top + item.size) * detail)
    columns = slice(item.left * detail, (item.left + item.size) * detail)
    coverage = shape_mask(item.shape, item.size * detail)[:, :, None]
    canvas[rows, columns] *= 1 - coverage
    canvas[rows, columns] += coverage * np.asarray(COLOURS[item.colour], np.float32)


def _paint_figure(canvas: NDArray[np.float32], figure: PlacedFigure, detail: int) -> None:
    rows = slice(figure.top * detail, (figure.top + figure.size) * detail)
    columns = slice(figure.left * detail, (figure.left + figure.size) * detail)
    masks = figure_masks(figure.index, figure.size * detail)[..., None]
    canvas[rows, columns] *= 1 - masks.sum(0)
    for coverage, colour in zip(masks, figure.colours, strict=True):
        canvas[rows, columns] += coverage * np.asarray(COLOURS[colour], np.float32)


def _paint_sign(canvas: NDArray[np.float32], sign: Sign, detail: int) -> None:
    if not 0 < len(sign.word) <= NUM_SLOTS:
        raise ValueError(f"a sign holds 1 to {NUM_SLOTS} letters, got {sign.word!r}")
    board, ink = SIGN_COLOURS[sign.palette]
    rows = canvas[SIGN_TOP * detail : (SIGN_TOP + SIGN_HEIGHT) * detail]
    rows[:] = board
    rows[:detail] = rows[-detail:] = 0.5 * np.asarray(board) + 0.5 * np.asarray(ink)
    write(rows, sign.word, ink, detail)


def write(board: NDArray[Any], word: str, ink: Any, detail: int) -> None:
    """Write a word's letters on a board of ``SIGN_HEIGHT * detail`` rows, each in its slot."""
    top = (SIGN_HEIGHT - GLYPH_HEIGHT) // 2 * detail
    for slot, letter in enumerate(word):
        glyph = glyph_mask(letter, detail)
        left = slot * SLOT_WIDTH * detail + (SLOT_WIDTH * detail - glyph.shape[1]) // 2
        board[top : top + GLYPH_HEIGHT * detail, left : left + glyph.shape[1]][glyph] = ink
