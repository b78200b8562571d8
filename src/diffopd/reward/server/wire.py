"""What a reward server and its client say to each other: JSON with PNG images, nothing that can run.

Images travel as 8-bit PNG, so a server scores :func:`quantised` images. Numbers travel exactly.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffopd.files.png import to_picture
from diffopd.types import KnownPair, Prompts, Scores

VERSION = 1
"""Of the exchange; a server refuses any other."""
_FIELDS: Mapping[str, type] = {"text": str, "task": str, "metadata": dict, "index": int, "group": int}


class RequestError(ValueError):
    """A request with an error.

    Attributes:
        status: HTTP status code of the reply.
    """

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What a request may hold at most.

    Attributes:
        body: Bytes of its body.
        images: Images.
        side: Pixels of an image's longer side.
        pixels: Pixels of all its images together.
    """

    body: int
    images: int
    side: int
    pixels: int


_OF_PAIR = Limits(body=1 << 26, images=1, side=4096, pixels=4096**2)
_LONGEST = 1000  # characters of a name or scale in a reply
_MOST_PARTS = 1000
_NUMBERS_END = 1 << 63  # of an index or group


def quantised(images: Float[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch 3 height width"]:
    """Images in 8 bits a channel, as a PNG holds them.

    Examples:
        >>> import torch
        >>> (quantised(torch.full((1, 3, 1, 1), 0.5)) * 255).flatten()
        tensor([128., 128., 128.])
    """
    return (images.detach().float().clamp(0, 1) * 255).round().byte().float() / 255


def encode_request(images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> dict[str, Any]:
    """The body of a request.

    Raises:
        ValueError: If a prompt's metadata is not JSON.
    """
    columns = (prompts.texts, prompts.tasks, prompts.metadata, prompts.indices, prompts.groups)
    rows = zip(*columns, strict=True)
    return {
        "version": VERSION,
        "images": [_encode_png(image) for image in images],
        "prompts": [
            dict(zip(_FIELDS, (text, task, dict(meta), i, g), strict=True)) for text, task, meta, i, g in rows
        ],
    }


def decode_request(content: Any, limits: Limits) -> tuple[UInt8[Tensor, " batch 3 height width"], Prompts]:
    """Images, in 8 bits a channel, and prompts of a request's body.

    No image is decoded before the sizes of all are known and allowed.

    Raises:
        RequestError: If it is not what :func:`encode_request` makes, or holds more than allowed.
    """
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise RequestError(400, f"the body must be a JSON object with version={VERSION}, images and prompts")
    images, prompts = content.get("images"), content.get("prompts")
    if not isinstance(images, list) or not isinstance(prompts, list) or not len(images) == len(prompts) > 0:
        raise RequestError(400, "images and prompts must be lists of one length, at least 1")
    if len(images) > limits.images:
        raise RequestError(413, f"{len(images)} images are more than the {limits.images} a request may hold")
    rows = [_decode_prompt(prompt, row) for row, prompt in enumerate(prompts)]
    files = [_decode_base64(text, row) for row, text in enumerate(images)]
    width, height = _one_size([_size(file, row, limits) for row, file in enumerate(files)])
    if len(files) * width * height > limits.pixels:
        raise RequestError(
            413,
            f"{len(files)} images of {width} x {height} have {len(files) * width * height} pixels, "
            f"{limits.pixels} are allowed in a request; send fewer images",
        )
    pixels = torch.empty((len(files), 3, height, width), dtype=torch.uint8)
    for row, file in enumerate(files):
        pixels[row] = torch.from_numpy(_decode_png(file, row)).permute(2, 0, 1)
    return pixels, Prompts(*(tuple(column) for column in zip(*rows, strict=True)))


def in_unit_range(pixels: UInt8[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch 3 height width"]:
    """Images in [0, 1] of images in 8 bits a channel."""
    return pixels.float().div_(255)  # in place, as a request may hold gigabytes


def encode_pair(pair: KnownPair) -> dict[str, Any]:
    """A pair of a better and a worse image as the body of a reply: two requests of one image."""
    images = {"better": pair.better, "worse": pair.worse}
    return {name: encode_request(image[None], pair.prompt) for name, image in images.items()}


def decode_pair(content: Any) -> KnownPair:
    """The pair in a reply.

    Raises:
        ValueError: If it is not what :func:`encode_pair` makes.
    """
    if not isinstance(content, dict) or set(content) != {"better", "worse"}:
        raise ValueError(f"a pair must have better and worse, got {str(content)[:200]!r}")
    (better, prompt), (worse, _) = (decode_request(content[name], _OF_PAIR) for name in ("better", "worse"))
    return KnownPair(in_unit_range(better)[0], in_unit_range(worse)[0], prompt)


def encode_scores(scores: Scores) -> dict[str, Any]:
    """The body of a reply; NaN and infinity, which JSON does not know, become null."""
    parts = {name: _encode_numbers(values) for name, values in scores.parts.items()}
    return {"value": _encode_numbers(scores.value), "parts": parts, "scale": scores.scale}


def decode_scores(reply: Any, count: int) -> Scores:
    """The scores in a reply.

    Args:
        reply: The decoded body.
        count: Images asked about.

    Raises:
        ValueError: If it is not what :func:`encode_scores` makes of so many images.
    """
    parts = reply.get("parts") if isinstance(reply, dict) else None
    if not isinstance(parts, dict) or not isinstance(reply.get("scale"), str):
        raise ValueError(f"the reply must be an object with value, parts and scale, got {str(reply)[:200]!r}")
    if len(parts) > _MOST_PARTS or any(len(text) > _LONGEST for text in (reply["scale"], *parts)):
        raise ValueError(
            f"the reply must have at most {_MOST_PARTS} parts, and names and a scale of at most {_LONGEST} "
            "characters"
        )
    if odd := next((text for text in (reply["scale"], *parts) if not _is_printable(text)), None):
        # They are printed and become columns of files; half of a surrogate pair can be written nowhere.
        raise ValueError(f"names of parts and the scale must be printable, got {odd[:50]!r}")
    if "" in parts:
        raise ValueError("a part must have a name")
    value = _decode_numbers(reply.get("value"), "value", count)
    named = {name: _decode_numbers(numbers, name, count) for name, numbers in parts.items()}
    return Scores(value, named, reply["scale"])


def _is_printable(text: str) -> bool:
    return "".join(text.split()).isprintable()


def _encode_png(image: Float[Tensor, " 3 height width"]) -> str:
    buffer = io.BytesIO()
    to_picture(image).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _decode_base64(text: Any, row: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise RequestError(400, f"image {row} is not a PNG in base64: {error}") from error


def _size(file: bytes, row: int, limits: Limits) -> tuple[int, int]:
    """Width and height that a PNG's header names."""
    with _opened(file, row) as picture:
        if max(picture.size) > limits.side:
            width, height = picture.size
            raise RequestError(413, f"image {row} has {width} x {height} pixels; the limit is {limits.side}")
        if picture.mode != "RGB":
            raise RequestError(400, f"image {row} must be an RGB PNG, got mode {picture.mode}")
        return picture.size


def _one_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    if len(set(sizes)) > 1:
        raise RequestError(400, "the images of one request must have one size")
    return sizes[0]


def _decode_png(file: bytes, row: int) -> np.ndarray:
    with _opened(file, row) as picture:
        return np.array(picture)


@contextlib.contextmanager
def _opened(file: bytes, row: int) -> Iterator[Image.Image]:
    """A PNG of which only the header is read; whatever Pillow raises is the sender's mistake."""
    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as picture:
            yield picture
    except (RequestError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(413, f"image {row} is too large: {error}") from error
    except Exception as error:
        why = str(error).partition(" <_io")[0]  # Pillow names the file object by its place in memory
        raise RequestError(400, f"image {row} is not a PNG in base64: {why}") from error


def _decode_prompt(prompt: Any, row: int) -> tuple[Any, ...]:
    for name, kind in _FIELDS.items():
        given = prompt.get(name) if isinstance(prompt, dict) else None
        if not isinstance(given, kind) or isinstance(given, bool):
            raise RequestError(
                400,
                f"prompt {row} must be an object with {', '.join(_FIELDS)}; {name} is {reprlib.repr(given)}",
            )
        if isinstance(given, int) and not -_NUMBERS_END <= given < _NUMBERS_END:
            raise RequestError(400, f"prompt {row}: {name} must fit into 64 bits")
    return tuple(prompt[name] for name in _FIELDS)


def _encode_numbers(values: Float[Tensor, " batch"]) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in values.float().tolist()]


def _decode_numbers(numbers: Any, name: str, count: int) -> Float[Tensor, " batch"]:
    sound = isinstance(numbers, list) and len(numbers) == count
    if not sound or not all(n is None or type(n) in (int, float) for n in numbers):
        raise ValueError(f"'{name}' must be {count} numbers, got {str(numbers)[:200]}")
    try:
        floats = [math.nan if number is None else float(number) for number in numbers]
    except OverflowError as error:
        raise ValueError(f"'{name}' must be {count} numbers, got one of over 300 digits") from error
    return torch.tensor(floats, dtype=torch.float32)
