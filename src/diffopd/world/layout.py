"""Random scenes that satisfy a request."""

from __future__ import annotations

import numpy as np

from diffopd.world.colours import COLOURS, SIGN_COLOURS
from diffopd.world.request import RELATIONS, Request
from diffopd.world.scene import IMAGE_SIZE, PLACES, Object, Scene, Sign
from diffopd.world.split import is_held_out_pair

_MARGIN = 1


def random_scene(request: Request, rng: np.random.Generator, allow_held_out: bool = False) -> Scene:
    """A scene that shows what the request asks for, the rest left to chance.

    Args:
        request: What to show.
        rng: Source of every choice the request leaves open.
        allow_held_out: Whether colours left open may form a shape-colour pair kept for evaluation.

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
    size = int(rng.integers(12, 19))
    left, top = (int(x) for x in rng.integers(_MARGIN, IMAGE_SIZE - size - _MARGIN + 1, size=2))
    shape = request.shapes[0]
    return Object(shape, _colour(shape, request.colours[0], rng, allow_held_out), left, top, size)


def _pair(request: Request, rng: np.random.Generator, allow_held_out: bool) -> tuple[Object, ...]:
    relation = request.relation or str(rng.choice(RELATIONS))
    horizontal = relation in ("left of", "right of")
    objects = []
    drift = int(rng.integers(0, IMAGE_SIZE - 12 - 2 * _MARGIN - 4))
    for shape, colour, first in zip(request.shapes, request.colours, (True, False), strict=True):
        size = int(rng.integers(9, 13))
        half_start = 0 if first == (relation in ("left of", "above")) else IMAGE_SIZE // 2
        along = half_start + int(rng.integers(_MARGIN, IMAGE_SIZE // 2 - size - _MARGIN + 1))
        across = _MARGIN + drift + int(rng.integers(0, 5))
        left, top = (along, across) if horizontal else (across, along)
        objects.append(Object(shape, _colour(shape, colour, rng, allow_held_out), left, top, size))
    return tuple(objects)


def _counted(request: Request, rng: np.random.Generator, allow_held_out: bool) -> tuple[Object, ...]:
    cells_per_side = 2 if request.count <= 4 else 3
    cell = IMAGE_SIZE // cells_per_side
    shape = request.shapes[0]
    colour = _colour(shape, None, rng, allow_held_out)
    size = int(rng.integers(9, 13)) if cells_per_side == 2 else 8
    objects = []
    for index in rng.choice(cells_per_side**2, size=request.count, replace=False):
        row, column = divmod(int(index), cells_per_side)
        slack = cell - size - 2 * _MARGIN
        jitter = rng.integers(0, slack + 1, size=2)
        left, top = column * cell + _MARGIN + int(jitter[0]), row * cell + _MARGIN + int(jitter[1])
        objects.append(Object(shape, colour, left, top, size))
    return tuple(objects)
