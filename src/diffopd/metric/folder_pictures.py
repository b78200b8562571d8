"""Pictures of a folder to compare generated images with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.data.pair_files import TEXT, read_captions
from diffopd.files.picture import read_picture
from diffopd.types import Picture


def folder_pictures(*, path: str, side: int) -> Float[Tensor, " batch 3 side side"]:
    """The captioned pictures of a folder, each scaled to cover a square and cut around its center.

    Args:
        path: The folder, in a layout that ``data=pairs`` finds by itself.
        side: Of the squares, in pixels.

    Returns:
        Images in [0, 1].

    Raises:
        ValueError: If there is no such folder, or a picture cannot be read.
    """
    files = read_captions(path, "auto", "file_name", (TEXT,), setting="reference.path")
    with ThreadPoolExecutor(max_workers=8) as pool:  # Pillow decodes outside of Python's lock
        return torch.stack(
            list(pool.map(lambda file: read_picture(Picture(str(file.file), "", side, side)), files))
        )
