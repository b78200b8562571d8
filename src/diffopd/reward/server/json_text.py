"""JSON that came over a network, read without letting its shape exhaust memory or the stack."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

DEEPEST = 32
"""Levels of lists and objects inside each other."""
MOST_VALUES = 1_000_000
"""Values in all: an empty object takes three bytes as text and over sixty in memory."""
_TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"


def read_json(text: bytes | bytearray, *, strict: bool) -> Any:
    """The value of a JSON text.

    Args:
        text: Encoded in UTF-8.
        strict: Also reject NaN and infinity, which JSON does not know, and halves of surrogate pairs, which
            no tokenizer takes.

    Raises:
        ValueError: If it is not JSON, nested deeper than :data:`DEEPEST`, or of more than
            :data:`MOST_VALUES` values.

    Examples:
        >>> read_json(b'{"a": [1]}', strict=True)
        {'a': [1]}
        >>> read_json(b"[" * 5000, strict=True)
        Traceback (most recent call last):
        ...
        ValueError: it is nested deeper than 32 levels
    """
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    try:
        value = json.loads(
            text, parse_constant=_no_number if strict else None, parse_float=_finite if strict else None
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        if strict:
            _check_texts(level)
        lists = [value for value in level if isinstance(value, list)]
        objects = [value for value in level if isinstance(value, dict)]
        level = [inner for outer in lists for inner in outer]
        level += [inner for outer in objects for inner in (*outer, *outer.values())]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _check_texts(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, str) and not value.isascii():
            value.encode()  # UnicodeEncodeError is a ValueError
