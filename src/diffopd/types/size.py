"""Height and width of pictures, as configs and messages write them."""

from __future__ import annotations

from collections.abc import Sequence

Size = tuple[int, int]
"""Height and width in pixels."""
ImageSize = int | Sequence[int]
"""A square's side, or height and width, in pixels."""


def height_and_width(image_size: ImageSize) -> Size:
    """Height and width of what a config calls ``image_size``.

    Raises:
        ValueError: If it is no size.

    Examples:
        >>> height_and_width(512), height_and_width([768, 1024])
        ((512, 512), (768, 1024))
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"an image_size is one number of pixels, or [height, width], got {image_size}")
    return sides


def shown_size(size: Size) -> str:
    """A size as a config has it.

    Examples:
        >>> shown_size((512, 512)), shown_size((768, 1024))
        ('512', '[768, 1024]')
    """
    return str(size[0]) if size[0] == size[1] else f"[{size[0]}, {size[1]}]"
