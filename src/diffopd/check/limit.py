"""What a config path must hold, beyond what its constructor's annotation says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from diffopd.check.annotation import shown
from diffopd.check.error import did_you_mean
from diffopd.check.ranges import ANYWHERE, LIMITS
from diffopd.check.rule import Numbers, OneOf, Range, Rule
from diffopd.check.values import UNKNOWN, UNSET


def matches(path: str, pattern: str) -> bool:
    """Whether a config path fits a pattern, in which ``*`` stands for any text within one part.

    Examples:
        >>> matches("data.tasks.ocr", "data.tasks.*"), matches("data.tasks.ocr.path", "data.tasks.*")
        (True, False)
    """
    parts, patterns = path.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


@cache
def rules_of(path: str) -> Sequence[Rule]:
    """The rules of a config path: those of :data:`LIMITS`, or else the longest ending of :data:`ANYWHERE`.

    A command checks the config of each of its runs: the same paths again and again.
    """
    if found := [rule for pattern, rule in LIMITS.items() if matches(path, pattern)]:
        return found
    parts = path.split(".")
    for start in range(len(parts)):
        ending = ".".join(parts[start:])
        if found := [rule for pattern, rule in ANYWHERE.items() if matches(ending, pattern)]:
            return found
    return ()


def limit_problems(path: str, value: Any) -> Iterator[str]:
    """What is wrong with one value, if its path has a limit."""
    if value is UNSET or value is UNKNOWN:
        return
    for rule in rules_of(path):
        if isinstance(rule, Range) and _has_parts_with_rules(path, value):
            continue
        if not rule.holds(value):
            choices = list(map(shown, rule.choices)) if isinstance(rule, OneOf) else []
            yield f"{path}={shown(value)} must be {rule}{did_you_mean(shown(value), choices)}"


def _has_parts_with_rules(path: str, value: Any) -> bool:
    """Whether a value in place of a number is one whose own parts are looked at: an object, or a list."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(rules_of(f"{path}.{key}") for key in value)
    return isinstance(value, list) and any(not isinstance(rule, Numbers) for rule in rules_of(f"{path}.0"))
