"""The prompt files of the drawn world: ``python -m diffopd.world.prompt_sets`` writes them again.

Three tasks with three sets each. ``train`` and ``test`` are the two sides of :mod:`diffopd.world.split`;
``ood`` asks for what neither holds: counts of five, colors together with relations, two held-out pairs at
once, words of one or two letters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from diffopd.files.atomic import replacing
from diffopd.files.paths import resolve_path
from diffopd.world.colours import COLOURS
from diffopd.world.request import GENEVAL_TAGS, RELATIONS, Request, caption, metadata
from diffopd.world.scene import PLACES
from diffopd.world.shapes import SHAPES
from diffopd.world.split import HELD_OUT_PAIRS, is_held_out_pair, random_request
from diffopd.world.words import short_word

FOLDER = "package://assets/prompts"
SEED = 0
_PATIENCE = 4000
"""Draws in a row without a new text after which a form is taken to be exhausted."""

Draw = Callable[[np.random.Generator], Request]


def prompt_sets() -> dict[str, list[Request]]:
    """Every file's requests, by the file's path below ``FOLDER``, texts unique within a file."""
    forms = {tag: _from_split(tag, held_out=False) for tag in GENEVAL_TAGS}
    held_out_forms = {tag: _from_split(tag, held_out=True) for tag in GENEVAL_TAGS}
    unseen_forms: Mapping[str, Draw] = {
        "counting": _five,
        "position": _coloured_position,
        "color_attr": lambda rng: _held_out_pairs("color_attr", rng),
    }
    return {
        "composition/train.jsonl": _in_turns(forms, per_form=140, total=600),
        "composition/test.jsonl": _in_turns(held_out_forms, per_form=20, total=120),
        "composition/ood.jsonl": _in_turns(unseen_forms, per_form=28, total=84),
        "ocr/train.txt": _signs(_from_split("sign", held_out=False), 600, "ocr/train"),
        "ocr/test.txt": _signs(_from_split("sign", held_out=True), 120, "ocr/test"),
        "ocr/ood.txt": _signs(lambda rng: Request("sign", word=short_word(rng)), 80, "ocr/ood"),
        "aesthetic/train.txt": _unique(_from_split("painting", held_out=False), 500, "aesthetic/train"),
        "aesthetic/test.txt": _unique(_from_split("painting", held_out=True), 120, "aesthetic/test"),
        "aesthetic/ood.txt": _unique(lambda rng: _held_out_pairs("painting", rng), 80, "aesthetic/ood"),
    }


def write_prompt_sets(folder: Path) -> list[Path]:
    """Write every file below ``folder``; the same bytes each time.

    Returns:
        The files.
    """
    files = []
    for name, requests in prompt_sets().items():
        lines = [json.dumps(metadata(r)) if name.endswith(".jsonl") else prompt(r) for r in requests]
        with replacing(folder / name) as temporary:
            temporary.write_bytes("".join(line + "\n" for line in lines).encode())
        files.append(folder / name)
    return files


def prompt(request: Request) -> str:
    """A request as a prompt file words it: its caption, but paintings begin with their place.

    Nothing in the pretraining's pictures tells "a photo" from "a painting", so the embedded encoders give
    both nearly one embedding, 6 % of its norm apart, and a student of several teachers could hardly tell
    their prompts from each other. With the place in front it is 90 %.
    """
    place = f" in the {request.place}"
    text = caption(request)
    if request.form != "painting" or not text.endswith(place):
        return text
    return f"{place.strip()} {text.removesuffix(place)}"


def num_held_out_pairs(request: Request) -> int:
    """How many of the request's objects are of a held-out shape and color."""
    pairs = zip(request.shapes, request.colours, strict=True)
    return sum(colour is not None and is_held_out_pair(shape, colour) for shape, colour in pairs)


def _from_split(form: str, *, held_out: bool) -> Draw:
    def draw(rng: np.random.Generator) -> Request:
        while True:
            request = random_request(form, rng, held_out=held_out)
            if num_held_out_pairs(request) < 2:  # two at once are out of distribution
                return request

    return draw


def _five(rng: np.random.Generator) -> Request:
    """Five of a shape that training never counted to five."""
    shape = str(rng.choice([shape for shape in SHAPES if shape != "circle"]))
    return Request("counting", (shape,), (None,), count=5, place=_place(rng))


def _coloured_position(rng: np.random.Generator) -> Request:
    """Colors and a relation in one prompt; the pairs of color and shape themselves are seen in training."""
    while True:
        shapes = tuple(str(s) for s in rng.choice(SHAPES, size=2, replace=False))
        colours = tuple(str(c) for c in rng.choice(list(COLOURS), size=2, replace=False))
        request = Request("position", shapes, colours, relation=str(rng.choice(RELATIONS)), place=_place(rng))
        if num_held_out_pairs(request) == 0:
            return request


def _held_out_pairs(form: str, rng: np.random.Generator) -> Request:
    """Two different shapes, both in a color that training never shows them in."""
    pairs = sorted(HELD_OUT_PAIRS)
    while True:
        first, second = (pairs[i] for i in rng.choice(len(pairs), size=2, replace=False))
        if first[0] != second[0]:
            place = str(rng.choice(PLACES)) if form == "painting" else _place(rng)
            return Request(form, (first[0], second[0]), (first[1], second[1]), place=place)


def _place(rng: np.random.Generator) -> str | None:
    return str(rng.choice(PLACES)) if rng.random() < 0.5 else None


def _unique(draw: Draw, number: int, name: str) -> list[Request]:
    """Up to ``number`` requests with different texts; fewer if the form has no more."""
    rng = np.random.default_rng([SEED, *name.encode()])
    found: dict[str, Request] = {}
    unlucky = 0
    while len(found) < number and unlucky < _PATIENCE:
        request = draw(rng)
        unlucky = unlucky + 1 if caption(request) in found else 0
        found.setdefault(caption(request), request)
    return list(found.values())


def _signs(draw: Draw, number: int, name: str) -> list[Request]:
    """Signs with different words, every second one in a place.

    Captions of pretraining name no place beside a sign, so the embedded model, which reads every sign without
    one, often misspells one in the snow: there is something to learn.
    """
    rng = np.random.default_rng([SEED, *f"{name}/place".encode()])
    places = [str(place) for place in rng.choice(PLACES, size=number)]
    return [
        replace(request, place=places[index]) if index % 2 else request
        for index, request in enumerate(_unique(draw, number, name))
    ]


def _in_turns(draws: Mapping[str, Draw], *, per_form: int, total: int) -> list[Request]:
    """Up to ``per_form`` of each form, the forms in turns, so that any beginning is balanced."""
    columns = [_unique(draw, per_form, f"{form}/{per_form}") for form, draw in draws.items()]
    rounds = zip_longest(*columns)
    return [request for row in rounds for request in row if request is not None][:total]


if __name__ == "__main__":
    destination = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(resolve_path(FOLDER))
    for path in write_prompt_sets(destination):
        print(path)
