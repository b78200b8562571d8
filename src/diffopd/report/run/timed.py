"""How long parts of a report take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Timed:
    """Adds up the wall-clock time of named parts.

    Attributes:
        minutes: Part -> minutes so far, in the order in which the parts began.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Take the time from ``clock``, in seconds."""
        self._clock = clock
        self.minutes: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Inside, time counts for a part."""
        self.minutes.setdefault(part, 0.0)
        began = self._clock()
        try:
            yield
        finally:
            self.minutes[part] += (self._clock() - began) / 60
