"""Images as published scorers hand them to their networks: resized, cut or padded, normalized.

Released code differs in small ways, and absolute scores with it: 8-bit pictures resized by PIL or float
tensors by torch, bicubic or bilinear, cropped or padded, half a pixel in a crop rounded up or down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from diffopd.files.png import to_picture

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's training pictures, by channel; every scorer here uses them."""

Offset = Literal["floor", "round"]
"""How half an odd margin is rounded: down, as transformers does, or to even, as torchvision does."""


def cut_by_pil(
    images: Float[Tensor, " batch 3 height width"], side: int, offset: Offset
) -> Float[Tensor, " batch 3 side side"]:
    """8-bit pictures, shorter side resized by PIL's bicubic filter, the middle cut out, normalized.

    Args:
        images: In [0, 1].
        side: Of the square that comes back, in pixels.
        offset: Of the cut.

    Returns:
        On the CPU, in fp32; no gradient.
    """
    return cut_pictures([to_picture(image) for image in images], side, offset)


def cut_pictures(
    pictures: Sequence[Image.Image], side: int, offset: Offset
) -> Float[Tensor, " batch 3 side side"]:
    """The same for 8-bit RGB pictures, whose sizes may differ."""
    cut = [_cut_picture(picture, side, offset) for picture in pictures]
    pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 255
    return normalised(pixels)


def cut_bilinear(
    images: Float[Tensor, " batch 3 height width"], side: int
) -> Float[Tensor, " batch 3 side side"]:
    """Float images, shorter side resized by torch's antialiased bilinear filter, middle cut out, normalized.

    This is torchvision's ``Resize``, ``CenterCrop`` and ``Normalize`` on tensors.
    """
    height, width = _short_side(images.shape[-2], images.shape[-1], side)
    resized = interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
    top, left = _margin(height - side, "round"), _margin(width - side, "round")
    return normalised(resized[..., top : top + side, left : left + side])


def padded_bicubic(
    images: Float[Tensor, " batch 3 height width"], side: int
) -> Float[Tensor, " batch 3 side side"]:
    """Float images, longer side resized by torch's antialiased bicubic filter, padded in black, normalized.

    The filter overshoots at edges, and what leaves [0, 1] stays, as in the released code.
    """
    height, width = images.shape[-2:]
    factor = side / max(height, width)
    resized = images.float()
    if factor != 1:
        height, width = round(height * factor), round(width * factor)
        resized = interpolate(resized, (height, width), mode="bicubic", antialias=True)
    tall, wide = side - height, side - width
    return normalised(pad(resized, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)))


def normalised(pixels: Float[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch 3 height width"]:
    """``(pixels - MEAN) / STD`` by channel."""
    return (pixels - pixels.new_tensor(MEAN).view(3, 1, 1)) / pixels.new_tensor(STD).view(3, 1, 1)


def _cut_picture(picture: Image.Image, side: int, offset: Offset) -> np.ndarray:
    height, width = _short_side(picture.height, picture.width, side)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    top, left = _margin(height - side, offset), _margin(width - side, offset)
    return pixels[top : top + side, left : left + side]


def _short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width when the shorter of both becomes ``side``; the other is rounded down."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _margin(surplus: int, offset: Offset) -> int:
    return surplus // 2 if offset == "floor" else round(surplus / 2)
