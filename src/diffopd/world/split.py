"""Which requests are kept for evaluation, and random draws from either side.

Three things are never seen in training: six shape-colour pairs, the real words, and a quarter of the
texts that name no color. Five objects are counted in training for one shape only.
"""

from __future__ import annotations

import hashlib

import numpy as np

from diffopd.world.colours import COLOURS
from diffopd.world.request import GENEVAL_TAGS, RELATIONS, Request, caption
from diffopd.world.scene import PLACES
from diffopd.world.shapes import SHAPES
from diffopd.world.words import EVALUATION_WORDS, random_word

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("circle", "green"),
        ("square", "purple"),
        ("triangle", "orange"),
        ("cross", "blue"),
        ("ring", "red"),
        ("square", "yellow"),
    }
)
_HELD_OUT_ONE_IN = 4


def is_held_out_pair(shape: str, colour: str) -> bool:
    """Whether no training drawing may show this shape in this color."""
    return (shape, colour) in HELD_OUT_PAIRS


def is_held_out(request: Request) -> bool:
    """Whether a request belongs to evaluation, and so may not be trained on."""
    if request.form == "sign":
        return request.word in EVALUATION_WORDS
    if any(colour is not None for colour in request.colours):
        pairs = zip(request.shapes, request.colours, strict=True)
        return any(colour is not None and is_held_out_pair(shape, colour) for shape, colour in pairs)
    if request.count == 5:
        return request.shapes[0] != "circle"
    return hashlib.sha256(caption(request).encode()).digest()[0] % _HELD_OUT_ONE_IN == 0


def random_request(form: str, rng: np.random.Generator, held_out: bool = False) -> Request:
    """A random request of one form, from the training or from the evaluation side.

    Args:
        form: One of ``FORMS``.
        rng: Source of randomness.
        held_out: Draw from the evaluation side.

    Returns:
        The request. Evaluation requests count at most four.
    """
    while True:
        request = _any_request(form, rng, held_out)
        if is_held_out(request) == held_out and not (held_out and request.count == 5):
            return request


def _any_request(form: str, rng: np.random.Generator, held_out: bool) -> Request:
    if form == "sign":
        return Request(form, word=str(rng.choice(EVALUATION_WORDS)) if held_out else random_word(rng))
    place = str(rng.choice(PLACES)) if form == "painting" or rng.random() < 0.5 else None
    if form == "counting":
        return Request(form, (str(rng.choice(SHAPES)),), (None,), count=int(rng.integers(2, 6)), place=place)
    if form == "painting":
        number = int(rng.integers(1, 3))
    else:
        number = 1 if form in ("single_object", "colors") else 2
    shapes = tuple(str(s) for s in rng.choice(SHAPES, size=number, replace=False))
    coloured = form in ("colors", "color_attr", "painting")
    colours = tuple(
        str(c) if coloured else None for c in rng.choice(list(COLOURS), size=number, replace=False)
    )
    relation = str(rng.choice(RELATIONS)) if form == "position" else None
    return Request(form, shapes, colours, relation=relation, place=place)


def random_training_request(rng: np.random.Generator, sign_share: float) -> Request:
    """A request from the pretraining mixture.

    Args:
        rng: Source of randomness.
        sign_share: Share of signs, in [0, 1]; the rest is 69 parts GenEval's forms to 25 parts paintings.
    """
    others = 1 - sign_share
    shares = [sign_share, others * 69 / 94, others * 25 / 94]
    form = str(rng.choice(["sign", "geneval", "painting"], p=shares))
    return random_request(str(rng.choice(GENEVAL_TAGS)) if form == "geneval" else form, rng)
