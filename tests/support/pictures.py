"""Picture files of few pixels, drawn from a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from diffopd.files.png import save_png
from diffopd.types import Picture


def picture_file(folder: Path, seed: int, height: int = 64, width: int = 64) -> Picture:
    """A smooth random picture, saved."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    path = save_png(image, folder / f"picture{seed}.png")
    return Picture(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), height, width)
