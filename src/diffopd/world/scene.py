"""What a drawing shows, apart from how it is drawn and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_SIZE = 32
"""Units along a side of a scene; a drawing has one or two pixels for each."""

PLACES: tuple[str, ...] = ("night", "fog", "snow", "forest", "desert", "dusk")
"""Backgrounds that captions can ask for."""


@dataclass(frozen=True)
class Object:
    """A colored shape; ``left`` and ``top`` are the corner of its bounding square in units."""

    shape: str
    colour: str
    left: int
    top: int
    size: int


@dataclass(frozen=True)
class PlacedFigure:
    """A random figure of :mod:`diffopd.world.figures`, by its index.

    Attributes:
        index: Decides its outline, its hole and where its two colors meet.
        colours: Names of the two.
        left: Corner of its bounding square in units.
        top: The same downwards.
        size: Side of that square.
    """

    index: int
    colours: tuple[str, str]
    left: int
    top: int
    size: int


@dataclass(frozen=True)
class Sign:
    """A board with letters; ``palette`` indexes ``SIGN_COLOURS``."""

    word: str
    palette: int


@dataclass(frozen=True)
class Scene:
    """A background, and objects, figures or a sign in front of it.

    Attributes:
        place: One of ``PLACES``.
        texture_seed: Decides the background's shades and texture.
        objects: Shapes, which never overlap.
        sign: A board of letters, drawn instead of shapes.
        figures: Random figures, which have no name.
    """

    place: str
    texture_seed: int
    objects: tuple[Object, ...] = ()
    sign: Sign | None = None
    figures: tuple[PlacedFigure, ...] = ()
