"""Draws scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffopd.world.colours import COLOURS, SIGN_COLOURS
from diffopd.world.glyphs import GLYPH_HEIGHT, GLYPHS, NUM_SLOTS, SLOT_WIDTH
from diffopd.world.scene import IMAGE_SIZE, Object, Scene, Sign
from diffopd.world.shapes import shape_mask

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


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: What to draw.

    Returns:
        RGB image of shape ``(IMAGE_SIZE, IMAGE_SIZE, 3)``, 8 bits a channel.
    """
    canvas = _background(scene.place, scene.texture_seed)
    for shape in scene.objects:
        _paint_object(canvas, shape)
    if scene.sign is not None:
        _paint_sign(canvas, scene.sign)
    return np.rint(canvas.clip(0, 255)).astype(np.uint8)


def _background(place: str, texture_seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(texture_seed)
    top, bottom = (np.asarray(shade, np.float32) for shade in _SHADES[place])
    shift = rng.normal(0, 7, size=2)
    height = np.linspace(0, 1, IMAGE_SIZE, dtype=np.float32)[:, None, None]
    canvas = (top + shift[0]) * (1 - height) + (bottom + shift[1]) * height
    canvas = np.repeat(canvas, IMAGE_SIZE, axis=1)
    if place in ("night", "snow"):
        # Stars and snowflakes: single bright (or, on snow, slightly darker) pixels.
        rows, columns = rng.integers(0, IMAGE_SIZE, size=(2, 14))
        canvas[rows, columns] += 70 if place == "night" else -22
    elif place in ("forest", "desert"):
        # Trunks stand upright, dunes lie flat.
        wave = 9 * np.sin(np.arange(IMAGE_SIZE) * rng.uniform(0.7, 1.1) + rng.uniform(0, 2 * np.pi))
        canvas += wave[None, :, None] if place == "forest" else wave[:, None, None]
    return canvas.astype(np.float32)


def _paint_object(canvas: NDArray[np.float32], item: Object) -> None:
    rows = slice(item.top, item.top + item.size)
    columns = slice(item.left, item.left + item.size)
    coverage = shape_mask(item.shape, item.size)[:, :, None]
    canvas[rows, columns] *= 1 - coverage
    canvas[rows, columns] += coverage * np.asarray(COLOURS[item.colour], np.float32)


def _paint_sign(canvas: NDArray[np.float32], sign: Sign) -> None:
    if not 0 < len(sign.word) <= NUM_SLOTS:
        raise ValueError(f"a sign holds 1 to {NUM_SLOTS} letters, got {sign.word!r}")
    board, ink = SIGN_COLOURS[sign.palette]
    canvas[SIGN_TOP : SIGN_TOP + SIGN_HEIGHT] = board
    canvas[[SIGN_TOP, SIGN_TOP + SIGN_HEIGHT - 1]] = 0.5 * np.asarray(board) + 0.5 * np.asarray(ink)
    top = SIGN_TOP + (SIGN_HEIGHT - GLYPH_HEIGHT) // 2
    for slot, letter in enumerate(sign.word):
        glyph = GLYPHS[letter]
        left = slot * SLOT_WIDTH + (SLOT_WIDTH - glyph.shape[1]) // 2
        canvas[top : top + GLYPH_HEIGHT, left : left + glyph.shape[1]][glyph] = ink
