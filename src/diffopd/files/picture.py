"""Pictures as they are read for a network."""

from __future__ import annotations

from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from diffopd.files.png import from_picture
from diffopd.types import Picture


def read_picture(picture: Picture, background: str = "white") -> Float[Tensor, " 3 height width"]:
    """A picture in [0, 1], scaled to cover its size and cropped around its middle."""
    with Image.open(picture.path) as file:
        upright = ImageOps.exif_transpose(file).convert("RGBA")
    ground = Image.new("RGBA", upright.size, background)
    ground.alpha_composite(upright)
    fitted = ImageOps.fit(ground.convert("RGB"), (picture.width, picture.height), Image.Resampling.LANCZOS)
    return from_picture(fitted)
