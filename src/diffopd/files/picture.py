"""People's own pictures, read as they are meant to be seen."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from diffopd.types.picture import Colour, Picture

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of the files that are looked for; what a file holds is told by its content."""


def read_picture(picture: Picture, background: Colour | None = None) -> Float[Tensor, " 3 height width"]:
    """A picture in [0, 1], scaled to cover its height and width and cut around its center.

    It is turned as its EXIF entry says, and what is transparent shows the background. Scaling is bicubic with
    antialiasing. One of 16-bit grey keeps its tones; of 16-bit colours Pillow reads the upper 8 bits.

    Args:
        picture: Which, and at what size.
        background: Colour behind transparent parts; None = the picture's own.

    Raises:
        ValueError: If the file cannot be read as one picture, naming it and saying why.
    """
    size = (picture.width, picture.height)
    with _opened(picture.path) as image:
        channels = [
            band.resize(size, Image.Resampling.BICUBIC, box=_cover(band.size, size))
            for band in _bands(_upright(image, picture.path), background or picture.background)
        ]
    pixels = torch.stack([torch.from_numpy(np.array(band)) for band in channels])
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    return pixels.clamp(0, 1)


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a picture as it is seen; the whole file is read, so that damage is noticed.

    Raises:
        ValueError: If it cannot be read as one picture, naming it and saying why.
    """
    with _opened(path) as image:
        width, height = image.size
        image.draft("RGB", (1, 1))  # a JPEG is read to its end all the same, in a fraction of the time
        _load(image, path)
        turned = image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
    return (width, height) if turned else (height, width)


def cut_share(seen: tuple[int, int], size: tuple[int, int]) -> float:
    """Share of a picture that :func:`read_picture` cuts off.

    Args:
        seen: Its height and width.
        size: Height and width at which it is read.

    Examples:
        >>> cut_share((100, 150), (64, 64))
        0.333...
    """
    height, width = seen
    left, top, right, bottom = _cover((width, height), (size[1], size[0]))
    return 1 - (right - left) * (bottom - top) / (width * height)


_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    """The file as Pillow opens it, its pixels unread.

    Raises:
        ValueError: If it holds no picture, or several.
    """
    file = Path(path)
    try:
        if not file.stat().st_size:
            raise ValueError(f"{file} is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # one's own large photograph
            image = Image.open(file, formats=FORMATS)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not there") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{file} is no PNG, JPEG or WebP picture, or its beginning is damaged") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    # A JPEG of several frames is one picture with previews, as telephones write it.
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        frames = getattr(image, "n_frames", 1)
        image.close()
        raise ValueError(f"{file} is animated ({frames} frames)")
    return image


def _load(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Read the pixels.

    Raises:
        ValueError: If they are not all there.
    """
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error})") from error


def _upright(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    """Turned as its EXIF entry says."""
    _load(image, path)
    return ImageOps.exif_transpose(image)


def _bands(image: Image.Image, background: Colour) -> list[Image.Image]:
    """Red, green and blue over the background: 8 bits each, or numbers in [0, 1] for one of 16-bit grey."""
    if image.mode.startswith("I"):  # Pillow would cut off what is above 255
        grey = np.asarray(image).astype(np.float32) / 65535
        bands = [grey] * 3
        clear = image.info.get("transparency")
        if clear is not None:
            bands = [
                np.where(np.asarray(image) == clear, np.float32(value / 255), grey) for value in background
            ]
        return [Image.fromarray(band) for band in bands]
    if image.has_transparency_data:
        above = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(below, above)
    return list(image.convert("RGB").split())


def _cover(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box of the target's shape around the center: left, top, right, bottom."""
    (width, height), (to_width, to_height) = size, target
    scale = min(width / to_width, height / to_height)
    left, top = max(0.0, (width - scale * to_width) / 2), max(0.0, (height - scale * to_height) / 2)
    return (left, top, width - left, height - top)
