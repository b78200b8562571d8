"""What a reward server and its client say to each other: JSON with PNG images, nothing that can run.

Images travel as 8-bit PNG, so a server scores :func:`quantised` images. Numbers travel exactly.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffopd.png import to_picture
from diffopd.types import KnownPair, Prompts, Scores

VERSION = 1
"""Of the exchange; a server refuses any other."""
_FIELDS: Mapping[str, type] = {"text": str, "task": str, "metadata": dict, "index": int, "group": int}


class RequestError(ValueError):
    """A request that is refused.

    Attributes:
        status: HTTP status code of the refusal.
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
    """

    body: int
    images: int
    side: int


_OF_PAIR = Limits(body=1 << 26, images=1, side=4096)


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
    rows = zip(*prompts._columns(), strict=True)
    return {
        "version": VERSION,
        "images": [_encode_png(image) for image in images],
        "prompts": [
            dict(zip(_FIELDS, (text, task, dict(meta), i, g), strict=True)) for text, task, meta, i, g in rows
        ],
    }


def decode_request(content: Any, limits: Limits) -> tuple[Float[Tensor, " batch 3 height width"], Prompts]:
    """Images and prompts of a request's body.

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
    pixels = [_decode_png(text, row, limits) for row, text in enumerate(images)]
    if any(image.shape != pixels[0].shape for image in pixels):
        raise RequestError(400, "the images of one request must have one size")
    return torch.stack(pixels), Prompts(*(tuple(column) for column in zip(*rows, strict=True)))


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
    return KnownPair(better[0], worse[0], prompt)


def encode_scores(scores: Scores) -> dict[str, Any]:
    """The body of a reply; NaN, which JSON does not know, becomes null."""
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
    value = _decode_numbers(reply.get("value"), "value", count)
    named = {name: _decode_numbers(numbers, name, count) for name, numbers in parts.items()}
    return Scores(value, named, reply["scale"])


def _encode_png(image: Float[Tensor, " 3 height width"]) -> str:
    buffer = io.BytesIO()
    to_picture(image).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _decode_png(text: Any, row: int, limits: Limits) -> Float[Tensor, " 3 height width"]:
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:  # reads the header only
            if max(picture.size) > limits.side:
                width, height = picture.size
                raise RequestError(
                    413, f"image {row} has {width} x {height} pixels; sides end at {limits.side}"
                )
            if picture.mode != "RGB":
                raise RequestError(400, f"image {row} must be an RGB PNG, got mode {picture.mode}")
            pixels = np.array(picture)
    except RequestError:
        raise
    except (TypeError, ValueError, binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise RequestError(400, f"image {row} is not a PNG in base64: {error}") from error
    except Image.DecompressionBombError as error:
        raise RequestError(413, f"image {row} is too large: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _decode_prompt(prompt: Any, row: int) -> tuple[Any, ...]:
    for name, kind in _FIELDS.items():
        given = prompt.get(name) if isinstance(prompt, dict) else None
        if not isinstance(given, kind) or isinstance(given, bool):
            raise RequestError(
                400, f"prompt {row} must be an object with {', '.join(_FIELDS)}; {name} is {given!r}"
            )
    return tuple(prompt[name] for name in _FIELDS)


def _encode_numbers(values: Float[Tensor, " batch"]) -> list[float | None]:
    return [None if math.isnan(number) else number for number in values.float().tolist()]


def _decode_numbers(numbers: Any, name: str, count: int) -> Float[Tensor, " batch"]:
    sound = isinstance(numbers, list) and len(numbers) == count
    if not sound or not all(n is None or isinstance(n, (int, float)) for n in numbers):
        raise ValueError(f"'{name}' must be {count} numbers, got {str(numbers)[:200]}")
    return torch.tensor([math.nan if number is None else number for number in numbers], dtype=torch.float32)
