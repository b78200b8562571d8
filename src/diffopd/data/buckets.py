"""Sizes of about equal area, for pictures of several shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffopd.types.size import Size

RELEASED: tuple[Size, ...] = (
    (1024, 1024),
    *((896, 1152), (1152, 896)),
    *((864, 1152), (1152, 864)),
    *((832, 1248), (1248, 832)),
    *((720, 1280), (1280, 720)),
    *((576, 1344), (1344, 576)),
)
"""Height and width of the eleven sizes with which D-OPSD's trainers were released."""
LARGEST_RATIO = 21 / 9
"""Of the longer side to the shorter one; longer pictures are cut."""


def sizes_of_area(size: Size, step: int) -> tuple[Size, ...]:
    """Sizes whose sides are multiples of ``step`` and whose area is nearest to that of ``size``.

    Args:
        size: Height and width whose area is wanted; the first of the sizes.
        step: Pixels.

    Returns:
        ``size``, then the others from wide to high; each comes with its counterpart of exchanged sides.

    Raises:
        ValueError: If ``step`` is below 1.

    Examples:
        >>> sizes_of_area((512, 512), 128)
        ((512, 512), (384, 640), (640, 384))
    """
    if step < 1:
        raise ValueError(f"data.bucket_step={step} must be at least 1")
    area = size[0] * size[1]
    found: set[Size] = set()
    for shorter in range(step, math.isqrt(area) + 1, step):
        longer = max(1, round(area / shorter / step)) * step
        if shorter <= longer <= LARGEST_RATIO * shorter:
            found |= {(shorter, longer), (longer, shorter)}
    return (size, *sorted(found - {size}))


def nearest_size(seen: Size, sizes: Sequence[Size]) -> Size:
    """Of several sizes the one whose shape is nearest to a picture's, by the ratio of the two ratios.

    Args:
        seen: Height and width of the picture.
        sizes: The sizes; of equally near ones the first is taken.

    Examples:
        >>> nearest_size((600, 800), [(512, 512), (384, 640), (448, 576)])
        (448, 576)
    """

    def distance(size: Size) -> float:
        return abs(math.log(seen[0] / seen[1]) - math.log(size[0] / size[1]))

    return min(sizes, key=distance)
