"""Does a picture size fit a pipeline?"""

from __future__ import annotations


def check_image_size(image_size: int, path: str, *, cell: int, largest: int | None) -> None:
    """Refuse a picture size that the pipeline cannot make.

    Args:
        image_size: Height and width in pixels.
        path: Names the pipeline, for the message.
        cell: Side of the smallest picture in pixels; others are multiples of it.
        largest: Side of the largest, or None.

    Raises:
        ValueError: If ``image_size`` does not fit.
    """
    limit = "" if largest is None else f" up to {largest}"
    fits = image_size >= cell and image_size % cell == 0
    if not fits or (largest is not None and image_size > largest):
        raise ValueError(
            f"model.image_size={image_size} does not fit {path}; allowed are multiples of {cell} "
            f"pixels{limit}"
        )
