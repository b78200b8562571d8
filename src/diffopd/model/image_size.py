"""Does a picture size fit a pipeline?"""

from __future__ import annotations

from diffopd.types.size import Size, shown_size


def check_image_size(
    size: Size, path: str, *, cell: int, largest: int | None, setting: str = "model.image_size"
) -> None:
    """Refuse a picture size that the pipeline cannot make.

    Args:
        size: Height and width in pixels.
        path: Names the pipeline, for the message.
        cell: Side of the smallest picture in pixels; others are multiples of it.
        largest: Longest side, or None.
        setting: Where the size comes from, for the message.

    Raises:
        ValueError: If ``size`` does not fit.
    """
    limit = "" if largest is None else f" up to {largest}"
    if any(side < cell or side % cell or (largest is not None and side > largest) for side in size):
        raise ValueError(
            f"{setting}={shown_size(size)} does not fit {path}; allowed are multiples of {cell} pixels{limit}"
        )
