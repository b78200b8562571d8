"""Reference pictures that a line of prompts or captions names: what the network is shown beside a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffopd.files.fingerprint import sha256_of
from diffopd.files.picture import picture_size
from diffopd.types import Picture
from diffopd.types.picture import WHITE, Colour
from diffopd.types.size import Size

LARGEST_AREA = 1024 * 1024
"""Pixels of the largest reference; larger ones are scaled down, as FLUX.2's pipelines do."""
MULTIPLE = 16
"""Pixels that its height and width are a multiple of, as there; what is beyond is cut off."""
SMALLEST_SIDE = 64
"""Pixels; FLUX.2's pipelines take none that is smaller."""


def reference_size(seen: Size) -> Size:
    """Height and width at which a reference is shown: its own, as far as the network takes it.

    Args:
        seen: Height and width of the picture.

    Raises:
        ValueError: If a side has fewer than 64 pixels.

    References:
        ``Flux2KleinPipeline.__call__`` of diffusers.

    Examples:
        >>> reference_size((100, 150)), reference_size((3000, 4000))
        ((96, 144), (880, 1168))
    """
    height, width = seen
    if height * width > LARGEST_AREA:
        scale = math.sqrt(LARGEST_AREA / (height * width))
        height, width = int(height * scale), int(width * scale)
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"{seen[0]} x {seen[1]} pixels (height x width): a reference picture needs at least "
            f"{SMALLEST_SIDE} on each side"
        )
    return height // MULTIPLE * MULTIPLE, width // MULTIPLE * MULTIPLE


def reference(file: Path, background: Colour = WHITE) -> Picture:
    """A picture file as a reference.

    Args:
        file: The picture.
        background: Color behind its transparent parts.

    Raises:
        ValueError: If it cannot be read or is too small, naming it.
    """
    seen = picture_size(file)
    try:
        size = reference_size(seen)
    except ValueError as error:
        raise ValueError(f"{file} has {error}") from error
    return Picture(str(file), sha256_of(file), *size, background)


def reference_places(value: Any, folder: Path, where: str) -> list[Path]:
    """Where the references are that a line of a file names.

    Args:
        value: What the line has: a text, or a list of texts; None = no references.
        folder: What the texts are places below.
        where: The line, for messages.

    Raises:
        ValueError: If it is something else.
    """
    if value is None:
        return []
    names: Sequence[Any] = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(
            f"{where}: reference pictures must be the place of one file below {folder}, or a list of such "
            f"places, got {value!r}"
        )
    return [folder / name for name in names]


def references_of(value: Any, folder: Path, where: str, background: Colour = WHITE) -> tuple[Picture, ...]:
    """The references that a line of a file names, each read to its end.

    Args:
        value: As for :func:`reference_places`.
        folder: What its texts are places below.
        where: The line, for messages.
        background: Color behind transparent parts.

    Raises:
        ValueError: If it is no place or list of places, or a picture cannot be read or is too small.
    """
    places = reference_places(value, folder, where)
    try:
        return tuple(reference(place, background) for place in places)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
