"""A picture file, by name and size: what a row is to learn, or what a network is shown of it."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """A picture file and the size at which it is read; :func:`diffopd.files.picture.read_picture` reads it.

    Attributes:
        path: The file.
        digest: SHA-256 of its bytes, so that caches and records notice a changed file.
        height: Rows of pixels after scaling and cropping.
        width: Columns of pixels after scaling and cropping.
        background: Colour behind its transparent parts.
    """

    path: str
    digest: str
    height: int
    width: int
    background: Colour = WHITE

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return (self.height, self.width)

    @property
    def key(self) -> str:
        """What it shows, whatever the file is called."""
        key = f"{self.digest}@{self.height}x{self.width}"
        return key if self.background == WHITE else f"{key} on {bytes(self.background).hex()}"
