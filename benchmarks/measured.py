"""Time, memory, and what they were measured on."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr of each start and stop

import torch
from torch.profiler import ProfilerActivity, profile


class Clock:
    """Which seconds are counted: those that pass, or the processor's, which other work takes no part of.

    On a busy machine the second are the fairer ones, though caches and cores are shared all the same.
    """

    read = staticmethod(time.perf_counter)

    @classmethod
    def count_processor_time(cls) -> None:
        """From now on count the processor seconds of this process, over all its threads."""
        cls.read = staticmethod(time.process_time)


def now() -> float:
    """Seconds, after everything asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Clock.read()


class PeakMemory:
    """Most bytes that were allocated at once between ``start`` and ``stop``, beyond those there before.

    On a GPU the caching allocator says. On the CPU it is the sum over time of every allocation and release
    of PyTorch's allocator, as its profiler records them: outputs, what autograd saves and the operators' own
    scratch tensors; not the interpreter, not what a library such as oneDNN allocates by itself. The recording
    slows a round, so what is timed is not measured and the other way round.
    """

    def __init__(self) -> None:
        self._before = 0
        self._profile: profile | None = None

    def start(self) -> None:
        """Begin."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()

    def stop(self) -> int:
        """End, and say how many bytes."""
        if self._profile is None:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self._before
        self._profile.__exit__(None, None, None)
        recorded: Any = self._profile.profiler
        self._profile = None
        events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
        held = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return most


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where it was measured, and how."""
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "commit": commit(),
        "settings": vars(arguments),
    }


def commit() -> str:
    """The repository's, marked if files differ from it; "unknown" without git."""
    folder = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
