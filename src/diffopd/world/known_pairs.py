"""Pairs of a good and a bad drawing, to check the scorers of the drawn world."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from diffopd.types import KnownPair
from diffopd.world.draw import draw
from diffopd.world.request import Request, caption, metadata
from diffopd.world.scene import Object, Scene, Sign

_ENLARGED = 8
"""How many times a sign is enlarged, so that it is read with and without finding lines first."""


def right_and_wrong_shapes() -> KnownPair:
    """A red circle left of a blue square, and a green cross."""
    asked = Request("position", ("circle", "square"), ("red", "blue"), relation="left of")
    circle, square = Object("circle", "red", 2, 10, 10), Object("square", "blue", 20, 10, 10)
    better = Scene("snow", 0, (circle, square))
    worse = Scene("snow", 0, (Object("cross", "green", 10, 10, 10),))
    return KnownPair.of(_pixels(better), _pixels(worse), caption(asked), metadata=metadata(asked))


def right_and_wrong_sign() -> KnownPair:
    """Signs that say CAT and MEN, where CAT is asked for; 256 pixels."""
    better, worse = (_enlarged(_pixels(Scene("snow", 0, sign=Sign(word, 0)))) for word in ("CAT", "MEN"))
    return KnownPair.of(better, worse, caption(Request("sign", word="CAT")))


def sign_in_a_picture(side: int) -> KnownPair:
    """The same signs in a picture of ``side`` pixels: filling one of 64 and less, else in a part of it.

    Only a reader that finds lines first reads the second kind, as in pictures of large models.
    """
    pair = right_and_wrong_sign()
    better, worse = (_placed(image, side) for image in (pair.better, pair.worse))
    return KnownPair(better, worse, pair.prompt)


def accent_and_noise() -> KnownPair:
    """An orange circle in the middle of a calm ground, and uniform noise."""
    better = _pixels(Scene("night", 0, (Object("circle", "orange", 7, 7, 18),)))
    worse = torch.from_numpy(np.random.default_rng(0).random(better.shape, np.float32))
    return KnownPair.of(better, worse, "a painting of an orange circle in the night")


def _placed(sign: Tensor, side: int) -> Float[Tensor, " 3 side side"]:
    """A sign that fills the picture, or hangs on a wall that grows darker downwards."""
    share = 1.0 if side <= 64 else 0.375
    size = round(share * side)
    small = interpolate(sign[None], size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    if share == 1:
        return small
    wall = torch.linspace(0.75, 0.45, side)[None, :, None].expand(3, side, side).clone()
    top, left = side // 5, side // 3
    wall[:, top : top + size, left : left + size] = small
    return wall


def _pixels(scene: Scene) -> Float[Tensor, " 3 height width"]:
    return torch.from_numpy(draw(scene)).permute(2, 0, 1).float() / 255


def _enlarged(image: Float[Tensor, " 3 height width"]) -> Float[Tensor, " 3 large_height large_width"]:
    return image.repeat_interleave(_ENLARGED, 1).repeat_interleave(_ENLARGED, 2)
