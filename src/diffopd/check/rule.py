"""Kinds of limits: a range of numbers, a list of so many, one of a few values, text, texts, a mapping."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffopd.check.annotation import shown
from diffopd.check.values import UNKNOWN


class Rule(Protocol):
    """What a value must be; as text it completes "must be"."""

    def holds(self, value: Any) -> bool:
        """Whether ``value`` keeps it."""
        ...


@dataclass(frozen=True)
class Range:
    """A number between two finite ends.

    Attributes:
        low: Smallest.
        high: Largest.
        whole: Whether it must be a whole number.
        open_low: Whether ``low`` itself is too small.
        open_high: Whether ``high`` itself is too large.
        also: Single values beside them, such as null or ``auto``.
    """

    low: float
    high: float
    whole: bool = False
    open_low: bool = False
    open_high: bool = False
    also: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """A range has two finite ends, in order."""
        assert math.isfinite(self.low)
        assert math.isfinite(self.high)
        assert self.low < self.high

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is in it."""
        if any(value == other and type(value) is type(other) for other in self.also):
            return True
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.whole:
            text = f"a whole number from {self.low} to {self.high}"
        else:
            ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
            text = f"a number in {ends[0]}{self.low:.12g}, {self.high:.12g}{ends[1]}"
        return ", or ".join([text, *map(shown, self.also)])


@dataclass(frozen=True)
class HeightAndWidth:
    """A number of pixels for a square, or a list of height and width.

    Attributes:
        side: What each of them must be.
    """

    side: Range

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is a side, or two."""
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        return all(self.side.holds(side) for side in sides)

    def __str__(self) -> str:
        return f"{self.side}, or [height, width]"


@dataclass(frozen=True)
class RangeOrShare:
    """A number of a range, or a share as text, such as ``10 %``.

    Attributes:
        number: What a number must be.
    """

    number: Range

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is such a number, or a share above 0."""
        if isinstance(value, str):
            written = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)
            return written is not None and float(written[1]) > 0
        return self.number.holds(value)

    def __str__(self) -> str:
        return f"{self.number}, or a share such as 10 %"


@dataclass(frozen=True)
class Numbers:
    """A list of so many parts, which have a rule of their own.

    Attributes:
        count: How many; None for any number of them.
        also: Single values beside such a list.
    """

    count: int | None
    also: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether ``value`` has so many."""
        return len(value) == (self.count or len(value)) if isinstance(value, list) else value in self.also

    def __str__(self) -> str:
        return ", or ".join(
            [f"a list of {self.count} numbers" if self.count else "a list of numbers", *map(shown, self.also)]
        )


@dataclass(frozen=True)
class OneOf:
    """One of a few values, of the same type."""

    choices: Sequence[Any]

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is among them."""
        return any(value == choice and type(value) is type(choice) for choice in self.choices)

    def __str__(self) -> str:
        return f"{'one of ' if len(self.choices) > 1 else ''}{', '.join(map(shown, self.choices))}"


@dataclass(frozen=True)
class Text:
    """Text that says something.

    Attributes:
        or_number: Whether a number will do, as the name of a folder does.
        also: Single values beside it, such as null.
    """

    or_number: bool = False
    also: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is text, and not blank."""
        if self.or_number and isinstance(value, (int, float)) and not isinstance(value, bool):
            return True
        return value in self.also if not isinstance(value, str) else bool(value.strip())

    def __str__(self) -> str:
        return ", or ".join(["text, and not empty", *map(shown, self.also)])


@dataclass(frozen=True)
class Texts:
    """A list of texts, such as files or overrides.

    Attributes:
        least: How many there must be.
        or_text: Whether one text will do, too.
        also: Single values beside such a list.
    """

    least: int = 0
    or_text: bool = False
    also: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether ``value`` has so many texts, and nothing else."""
        if isinstance(value, list):
            said = [part is UNKNOWN or (isinstance(part, str) and bool(part.strip())) for part in value]
            return len(said) >= self.least and all(said)
        return value in self.also or (self.or_text and Text().holds(value))

    def __str__(self) -> str:
        least = f" (at least {self.least})" if self.least else ""
        several = f"a list of texts{least}, none of them empty"
        one = ["one text"] if self.or_text else []
        return ", or ".join([several, *one, *map(shown, self.also)])


@dataclass(frozen=True)
class Named:
    """A mapping, with a rule of its own for what is in it.

    Attributes:
        also: Single values beside it, such as null.
    """

    also: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is a mapping."""
        return isinstance(value, Mapping) or value in self.also

    def __str__(self) -> str:
        return ", or ".join(["a mapping", *map(shown, self.also)])
