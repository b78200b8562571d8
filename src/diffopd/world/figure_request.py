"""What a caption says of a random figure: its colors, how large it is, where it stands; never its form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffopd.world.colours import COLOURS
from diffopd.world.figures import random_figure
from diffopd.world.scene import PLACES, PlacedFigure, Scene

SIZES: dict[str, int] = {"small": 12, "large": 20}
"""Cells in units, as those of the shapes; a figure fills its cell but for ``_INSET`` units at each side."""
_INSET = 1
_STARTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("small", "first"): (0,),
    ("small", "middle"): (8, 12),
    ("small", "last"): (20,),
    ("large", "first"): (0,),
    ("large", "middle"): (4, 8),
    ("large", "last"): (12,),
}
"""Where cells may begin, by size and part of the picture; on the grid of the model's tokens."""
_ACROSS = {"left": "first", "right": "last"}
_DOWN = {"top": "first", "bottom": "last"}
POSITIONS: tuple[str, ...] = (
    "in the middle",
    "at the left",
    "at the right",
    "at the top",
    "at the bottom",
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
)
THE_SAME_PICTURE = ", the same picture"
"""What a caption ends with where the reference shows what is to be drawn."""


@dataclass(frozen=True)
class FigureRequest:
    """The content of one caption of a figure.

    Attributes:
        name: What the figure is called; ``figure`` where it has no name.
        colours: Its two colors, or ``None`` where the caption leaves them open.
        size: A key of ``SIZES``, or ``None``.
        position: One of ``POSITIONS``, or ``None``.
        place: Background, or ``None``.
        same: The caption points at the figure of a reference picture.
    """

    name: str = "figure"
    colours: tuple[str, str] | None = None
    size: str | None = None
    position: str | None = None
    place: str | None = None
    same: bool = False


def figure_caption(request: FigureRequest) -> str:
    """The caption's text.

    Examples:
        >>> figure_caption(FigureRequest("plim", ("red", "blue"), "small", "at the left", "snow"))
        'a photo of a small red and blue plim at the left in the snow'
        >>> figure_caption(FigureRequest(position="at the top", same=True))
        'a photo of the same figure at the top'
    """
    words = [request.size] if request.size else []
    words += [" and ".join(request.colours)] if request.colours else []
    thing = " ".join([*words, request.name])
    article = "the same" if request.same else "an" if thing[0] in "aeiou" else "a"
    where = [request.position] if request.position else []
    where += [f"in the {request.place}"] if request.place else []
    return " ".join([f"a photo of {article} {thing}", *where])


def random_figure_request(rng: np.random.Generator, *, same: bool = False) -> FigureRequest:
    """A caption that names about half of what can be named; of the figure of a reference, no colors."""
    named = rng.random(4) < 0.5
    return FigureRequest(
        colours=random_colours(rng) if named[0] and not same else None,
        size=str(rng.choice(list(SIZES))) if named[1] else None,
        position=str(rng.choice(POSITIONS)) if named[2] else None,
        place=str(rng.choice(PLACES)) if named[3] else None,
        same=same,
    )


def random_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Two different colors."""
    first, second = (str(name) for name in rng.choice(list(COLOURS), size=2, replace=False))
    return first, second


def figure_scene(
    request: FigureRequest,
    rng: np.random.Generator,
    *,
    index: int | None = None,
    colours: Sequence[str] | None = None,
) -> Scene:
    """A scene that shows what the request asks for, the rest left to chance.

    Args:
        request: What to show.
        rng: Source of every choice the request leaves open.
        index: Which figure; None = a random one of the training side.
        colours: Its two colors where the request leaves them open; None = random ones.
    """
    chosen = random_figure(rng) if index is None else index
    first, second = request.colours or colours or random_colours(rng)
    size = request.size or str(rng.choice(list(SIZES)))
    corners = figure_corners(request.position or str(rng.choice(POSITIONS)), size)
    left, top = (int(rng.choice(corner)) for corner in corners)
    place = request.place or str(rng.choice(PLACES))
    figure = PlacedFigure(chosen, (first, second), left, top, figure_side(size))
    return Scene(place, int(rng.integers(2**31)), figures=(figure,))


def figure_side(size: str) -> int:
    """Side of a figure's bounding square in units, for a key of ``SIZES``."""
    return SIZES[size] - 2 * _INSET


def figure_corners(position: str, size: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the bounding square of a figure may begin, in units: at the left, and at the top.

    Args:
        position: One of ``POSITIONS``.
        size: A key of ``SIZES``.

    Examples:
        >>> figure_corners("at the top left", "large"), figure_corners("at the right", "small")
        (((1,), (1,)), ((21,), (9, 13)))
    """
    words = position.split()
    across = next((part for word, part in _ACROSS.items() if word in words), "middle")
    down = next((part for word, part in _DOWN.items() if word in words), "middle")
    left, top = (tuple(start + _INSET for start in _STARTS[size, part]) for part in (across, down))
    return left, top
