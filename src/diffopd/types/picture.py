"""A picture file, by name and size: what a row is to learn, or what a network is shown of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A picture file and the size at which it is read; :func:`diffopd.files.picture.read_picture` reads it.

    Attributes:
        path: The file.
        digest: SHA-256 of its bytes, so that caches and records notice a changed file.
        height: Rows of pixels after scaling and cropping.
        width: Columns of pixels after scaling and cropping.
    """

    path: str
    digest: str
    height: int
    width: int

    @property
    def key(self) -> str:
        """What it shows, whatever the file is called."""
        return f"{self.digest}@{self.height}x{self.width}"
