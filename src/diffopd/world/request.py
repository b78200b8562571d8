"""What a caption asks for: the link between a prompt's words, its metadata and the scenes that satisfy it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from diffopd.world.colours import COLOURS
from diffopd.world.scene import PLACES
from diffopd.world.shapes import PLURALS

GENEVAL_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
FORMS = (*GENEVAL_TAGS, "sign", "painting")
RELATIONS = ("left of", "right of", "above", "below")
NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Request:
    """The content of one caption.

    Attributes:
        form: One of ``FORMS``; the first six are GenEval's tags.
        shapes: The shapes asked for, in the order the caption names them.
        colours: One per shape, or ``None`` where the caption leaves the color open.
        count: How many of the (single) shape.
        relation: Where the first shape stands as seen from the second.
        place: Background, or ``None`` where the caption leaves it open.
        word: What the sign says.
    """

    form: str
    shapes: tuple[str, ...] = ()
    colours: tuple[str | None, ...] = ()
    count: int = 1
    relation: str | None = None
    place: str | None = None
    word: str | None = None


def caption(request: Request) -> str:
    """The prompt's text, in GenEval's wording for GenEval's six forms."""
    place = f" in the {request.place}" if request.place else ""
    if request.form == "sign":
        return f'a sign that says "{request.word}"{place}'
    if request.form == "counting":
        things = f"{NUMBER_WORDS[request.count]} {PLURALS[request.shapes[0]]}"
    else:
        joint = f" {request.relation} " if request.relation else " and "
        things = joint.join(_thing(s, c) for s, c in zip(request.shapes, request.colours, strict=True))
    medium = "painting" if request.form == "painting" else "photo"
    return f"a {medium} of {things}{place}"


def _thing(shape: str, colour: str | None) -> str:
    word = f"{colour} {shape}" if colour else shape
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def metadata(request: Request) -> dict[str, Any]:
    """The prompt's GenEval line: ``tag``, ``include`` and ``exclude`` clauses, ``prompt``.

    A sign has only ``tag`` and ``prompt``.
    """
    text = caption(request)
    if request.form == "sign":
        return {"tag": request.form, "prompt": text}
    if request.form == "counting":
        shape = request.shapes[0]
        return {
            "tag": request.form,
            "include": [{"class": shape, "count": request.count}],
            "exclude": [{"class": shape, "count": request.count + 1}],
            "prompt": text,
        }
    clauses: list[dict[str, Any]] = []
    for shape, colour in zip(request.shapes, request.colours, strict=True):
        clause: dict[str, Any] = {"class": shape, "count": 1}
        if colour:
            clause["color"] = colour
        clauses.append(clause)
    if request.relation:
        # GenEval lists the landmark first: "a cow right of a laptop" includes laptop, then cow.
        clauses.reverse()
        clauses[1]["position"] = [request.relation, 0]
    return {"tag": request.form, "include": clauses, "prompt": text}


def parse(text: str) -> Request:
    """The request that a prompt words, in the wording of :func:`caption` or of the prompt files.

    Raises:
        ValueError: If it words none.

    Examples:
        >>> parse("in the fog a painting of a red ring").colours
        ('red',)
        >>> parse("a photo of three crosses").count
        3
        >>> parse('a sign that says "TEXT" in the snow').place
        'snow'
    """
    place, what = _place(text)
    if word := _SIGN.fullmatch(what):
        return Request("sign", place=place, word=word[1])
    match = _MEDIUM.fullmatch(what)
    if match is None:
        raise ValueError(f"the drawn world has no such prompt: {text!r}")
    painting, things = match[1] == "painting", match[2]
    number, _, plural = things.partition(" ")
    if number in _COUNTS and plural in _SINGULAR:
        return Request("counting", (_SINGULAR[plural],), (None,), count=_COUNTS[number], place=place)
    relation = next((r for r in RELATIONS if f" {r} " in things), None)
    found = [_THING.fullmatch(thing) for thing in things.split(f" {relation} " if relation else " and ")]
    if not 1 <= len(found) <= 2 or None in found:
        raise ValueError(f"the drawn world has no such prompt: {text!r}")
    colours = tuple(thing[1] for thing in found if thing)
    shapes = tuple(thing[2] for thing in found if thing)
    if painting:
        form = "painting"
    elif relation:
        form = "position"
    elif len(shapes) == 1:
        form = "colors" if colours[0] else "single_object"
    else:
        form = "color_attr" if any(colours) else "two_object"
    return Request(form, shapes, colours, relation=relation, place=place)


def _place(text: str) -> tuple[str | None, str]:
    """The place, and the rest of the prompt without it."""
    for place in PLACES:
        words = f"in the {place}"
        if text.startswith(words + " "):
            return place, text.removeprefix(words + " ")
        if text.endswith(" " + words):
            return place, text.removesuffix(" " + words)
    return None, text


_SIGN = re.compile(r'a sign that says "([A-Z]+)"')
_MEDIUM = re.compile(r"a (photo|painting) of (.+)")
_THING = re.compile(rf"an? (?:({'|'.join(COLOURS)}) )?({'|'.join(PLURALS)})")
_COUNTS = {word: count for count, word in NUMBER_WORDS.items()}
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()}
