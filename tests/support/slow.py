"""Representatives run each time, the rest of an exhaustive list only when all tests are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

EXHAUSTIVE = pytest.mark.exhaustive


def slow_but(values: Iterable[Any], *quick: Any, rest: pytest.MarkDecorator = EXHAUSTIVE) -> list[Any]:
    """Parameters of which only ``quick`` are in the default suite.

    Args:
        values: All of them; tuples are the values of several arguments.
        quick: Those that stand for the others: one for each kind of thing that can go wrong.
        rest: Marks the others: ``exhaustive`` = `make test-all` alone runs them; ``slow`` = `make test-slow`,
            too, where each of them is something that users start.

    Raises:
        ValueError: If one of ``quick`` is not among them, and so nothing would run.
    """
    values = list(values)
    if missing := [value for value in quick if value not in values]:
        raise ValueError(f"{missing} are not among {values}")

    def slow(value: Any) -> Any:
        return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=rest)

    return [value if value in quick else slow(value) for value in values]


def mark_slow_but(items: Iterable[pytest.Item], folder: Path, quick: Mapping[str, Collection[str]]) -> None:
    """The same for tests whose parameters are shared with others, such as those of a fixture.

    Args:
        items: All tests.
        folder: Where the tests lie that are meant.
        quick: Test -> the ids of its parameters that stay in the default suite.
    """
    for item in items:
        kept = quick.get(getattr(item, "originalname", ""))
        if kept is not None and item.path.parent == folder and hasattr(item, "callspec"):
            if item.callspec.id not in kept:
                item.add_marker(EXHAUSTIVE)
