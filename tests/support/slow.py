"""Representatives run each time, the rest of an exhaustive list among the slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Parameters of which only ``quick`` are in the default suite.

    Args:
        values: All of them; tuples are the values of several arguments.
        quick: Those that stand for the others: one for each kind of thing that can go wrong.

    Raises:
        ValueError: If one of ``quick`` is not among them, and so nothing would run.
    """
    values = list(values)
    if missing := [value for value in quick if value not in values]:
        raise ValueError(f"{missing} are not among {values}")

    def slow(value: Any) -> Any:
        return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)

    return [value if value in quick else slow(value) for value in values]
