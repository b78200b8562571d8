"""Random scenes that satisfy a request."""

from __future__ import annotations

import numpy as np

from diffopd.world.colours import COLOURS, SIGN_COLOURS
from diffopd.world.request import RELATIONS, Request
from diffopd.world.scene import IMAGE_SIZE, PLACES, Object, Scene, Sign
from diffopd.world.split import is_held_out_pair

_GRID = 4
"""Objects stand in cells on a grid of this many pixels, the side of one of the model's tokens. Free placement
would take the embedded model several times as long to learn."""
_INSET = 1
"""Pixels between a cell's border and its object, so that neighbors never touch."""
_LARGE_CELLS = (16, 20)
_PAIR_CELL = 12


def random_scene(request: Request, rng: np.random.Generator, allow_held_out: bool = False) -> Scene:
    """A scene that shows what the request asks for, the rest left to chance.

    Args:
        request: What to show.
        rng: Source of every choice the request leaves open.
        allow_held_out: Whether colors left open may form a shape-colour pair kept for evaluation.

    Returns:
        The scene; its objects never touch.
    """
    place = request.place or str(rng.choice(PLACES))
    texture_seed = int(rng.integers(2**31))
    if request.form == "sign":
        sign = Sign(request.word or "", int(rng.integers(len(SIGN_COLOURS))))
        return Scene(place, texture_seed, sign=sign)
    if request.form == "counting":
        objects = _counted(request, rng, allow_held_out)
    elif len(request.shapes) == 1:
        objects = (_alone(request, rng, allow_held_out),)
    else:
        objects = _pair(request, rng, allow_held_out)
    return Scene(place, texture_seed, objects)


def _colour(shape: str, wanted: str | None, rng: np.random.Generator, allow_held_out: bool) -> str:
    while wanted is None or (is_held_out_pair(shape, wanted) and not allow_held_out):
        wanted = str(rng.choice(list(COLOURS)))
    return wanted


def _alone(request: Request, rng: np.random.Generator, allow_held_out: bool) -> Object:
    cell = int(rng.choice(_LARGE_CELLS))
    left, top = (int(x) for x in _GRID * rng.integers(0, (IMAGE_SIZE - cell) // _GRID + 1, size=2))
    shape = request.shapes[0]
    return _in_cell(shape, _colour(shape, request.colours[0], rng, allow_held_out), left, top, cell)


def _pair(request: Request, rng: np.random.Generator, allow_held_out: bool) -> tuple[Object, ...]:
    relation = request.relation or str(rng.choice(RELATIONS))
    horizontal = relation in ("left of", "right of")
    half = IMAGE_SIZE // 2
    drift = int(rng.integers(0, (IMAGE_SIZE - _PAIR_CELL) // _GRID))
    objects = []
    for shape, colour, first in zip(request.shapes, request.colours, (True, False), strict=True):
        half_start = 0 if first == (relation in ("left of", "above")) else half
        along = half_start + _GRID * int(rng.integers(0, (half - _PAIR_CELL) // _GRID + 1))
        across = _GRID * (drift + int(rng.integers(0, 2)))
        left, top = (along, across) if horizontal else (across, along)
        objects.append(_in_cell(shape, _colour(shape, colour, rng, allow_held_out), left, top, _PAIR_CELL))
    return tuple(objects)


def _counted(request: Request, rng: np.random.Generator, allow_held_out: bool) -> tuple[Object, ...]:
    # Up to four stand in the picture's quarters, more in a three by three grid of smaller cells.
    per_side, pitch, cell = (2, 16, _PAIR_CELL) if request.count <= 4 else (3, 12, 8)
    shape = request.shapes[0]
    colour = _colour(shape, None, rng, allow_held_out)
    objects = []
    for index in rng.choice(per_side**2, size=request.count, replace=False):
        row, column = divmod(int(index), per_side)
        down, right = _GRID * rng.integers(0, 2, size=2) if per_side == 2 else (0, 0)
        left, top = column * pitch + int(right), row * pitch + int(down)
        objects.append(_in_cell(shape, colour, left, top, cell))
    return tuple(objects)


def _in_cell(shape: str, colour: str, left: int, top: int, cell: int) -> Object:
    """An object filling a cell up to the inset; the smallest cells have their gap outside."""
    inset = _INSET if cell > 8 else 0
    return Object(shape, colour, left + inset, top + inset, cell - 2 * inset)
