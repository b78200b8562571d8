"""The drawn world's colors: one table for the drawer, the captions and the detector."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 44),
    "orange": (250, 132, 24),
    "yellow": (250, 222, 60),
    "green": (42, 160, 72),
    "blue": (40, 92, 226),
    "purple": (142, 54, 186),
}
"""Object colors as 8-bit RGB. Saturated, so that the muted backgrounds cannot be taken for objects."""

SIGN_COLOURS: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((250, 248, 240), (24, 24, 32)),
    ((252, 240, 190), (120, 24, 24)),
    ((226, 240, 252), (16, 40, 104)),
    ((228, 248, 228), (16, 72, 40)),
    ((28, 30, 40), (248, 248, 244)),
    ((20, 44, 100), (248, 236, 160)),
    ((24, 76, 52), (240, 250, 240)),
    ((112, 24, 36), (255, 240, 228)),
)
"""(board, letters) pairs of 8-bit RGB, all of high contrast."""
