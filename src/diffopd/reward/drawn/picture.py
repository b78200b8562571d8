"""What the picture-quality scores measure on: the picture from afar, its light and its color."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

SIDE = 32
"""Side in pixels to which pictures of any size are averaged first."""

WINDOW, STRIDE = 8, 2
"""Side and spacing of the windows of :func:`from_afar`, in pixels of the reduced picture."""


def from_afar(
    images: Float[Tensor, " batch channel height width"],
) -> Float[Tensor, " batch channel row column"]:
    """Means over overlapping windows a quarter of the picture wide, 13 by 13 of them.

    Noise and fine patterns average out, so that no score can be earned by texture.
    """
    return avg_pool2d(adaptive_avg_pool2d(images, SIDE), WINDOW, STRIDE)


def luminance(images: Float[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch 1 height width"]:
    """Rec. 601 luma in [0, 1]."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def chroma_vector(images: Float[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch 2 height width"]:
    """Color as a vector in the plane of hues: its angle is the hue, its length the chroma in [0, 1]."""
    red, green, blue = images.unbind(1)
    return torch.stack([red - (green + blue) / 2, (green - blue) * 3**0.5 / 2], 1)
