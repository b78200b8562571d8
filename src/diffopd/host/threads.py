"""How many torch threads to train with: measured, as it depends on the machine's other work."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)


def available_cores() -> int:
    """Number of cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_num_threads(
    workload: Callable[[], object],
    setting: str | int,
    *,
    cores: int | None = None,
    num_repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Set torch's number of threads and return it.

    Idle cores make all threads worthwhile; beside another job, a second thread can make each step ten times
    slower. ``"auto"`` therefore runs ``workload`` with one thread and with all cores, in turns, and keeps the
    number with the smaller median time.

    Sums depend on how they are split among threads, so two runs agree bitwise only with the same number.

    Args:
        workload: A few typical steps without lasting effects; not called when there is no choice.
        setting: ``"auto"`` or a number of at least 1 (``trainer.num_threads``).
        cores: Cores to consider; those of this process when None.
        num_repeats: Timed calls per candidate, after one untimed call each.
        clock: Seconds, rising.

    Returns:
        The number of threads that torch uses from now on.

    Raises:
        ValueError: If ``setting`` is neither ``"auto"`` nor a positive integer.
    """
    if setting != "auto":
        if isinstance(setting, bool) or not isinstance(setting, int) or setting < 1:
            raise ValueError(
                f"trainer.num_threads must be 'auto' or an integer of at least 1, got {setting!r}; "
                "'auto' times one thread and all cores and keeps the faster"
            )
        torch.set_num_threads(setting)
        log.info("torch threads: %d (trainer.num_threads)", setting)
        return setting

    candidates = sorted({1, cores or available_cores()})
    if len(candidates) == 1:
        torch.set_num_threads(1)
        log.info("torch threads: 1 (there is one core)")
        return 1

    seconds = _median_seconds(workload, candidates, num_repeats, clock)
    chosen = min(candidates, key=lambda n: (seconds[n], n))
    torch.set_num_threads(chosen)
    timings = ", ".join(f"{n}: {seconds[n]:.3f} s" for n in candidates)
    log.info("torch threads: %d (measured: %s)", chosen, timings)
    return chosen


def _median_seconds(
    workload: Callable[[], object], candidates: list[int], num_repeats: int, clock: Callable[[], float]
) -> dict[int, float]:
    """Median duration of ``workload`` per number of threads.

    Candidates take turns, so that a passing disturbance touches all of them.
    """
    durations: dict[int, list[float]] = {n: [] for n in candidates}
    for repeat in range(num_repeats + 1):
        for num_threads in candidates:
            torch.set_num_threads(num_threads)
            start = clock()
            workload()
            if repeat > 0:  # the first round warms caches and thread pools
                durations[num_threads].append(clock() - start)
    return {n: statistics.median(d) for n, d in durations.items()}
