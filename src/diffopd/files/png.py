"""Images as PNG files, whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffopd.files.atomic import replacing


def to_picture(image: Float[Tensor, " 3 height width"]) -> Image.Image:
    """An image in [0, 1] in its own size, 8 bits a channel."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)


def save_png(
    image: Image.Image | Float[Tensor, " 3 height width"],
    path: str | PathLike[str],
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a PNG, whole or not at all; a tensor in [0, 1] in its own size.

    Args:
        image: What to write.
        path: Where.
        texts: Name -> text, kept in the file beside the pixels.
    """
    picture = image if isinstance(image, Image.Image) else to_picture(image)
    notes = PngInfo()
    for name, text in (texts or {}).items():
        notes.add_itxt(name, text)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=notes)
    return Path(path)


def read_png(path: str | PathLike[str]) -> Float[Tensor, " 3 height width"]:
    """An image in [0, 1], of any format that Pillow reads."""
    with Image.open(path) as picture:
        return from_picture(picture)


def from_picture(picture: Image.Image) -> Float[Tensor, " 3 height width"]:
    """A picture as an image in [0, 1]."""
    pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
