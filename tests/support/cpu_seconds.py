"""Where the tests' time goes: ``make test ARGS=--cpu-seconds=cpu.jsonl``, then this module as a program.

Seconds of the processor, of the tests and of the processes they started and waited for: another job on the
machine changes them little, where it can double the seconds of the clock.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import defaultdict
from pathlib import Path, PurePosixPath


def used() -> float:
    """Processor seconds of this process so far, and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def note(file: Path, test: str, seconds: float) -> None:
    """Add a line; several workers may write to one file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"test": test, "seconds": round(seconds, 3)}) + "\n")


def table(file: Path, dearest: int = 20) -> str:
    """Seconds by folder, and the tests that take most of them, all their parameters together."""
    folders: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, float] = defaultdict(float)
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        folders[str(PurePosixPath(entry["test"].partition("::")[0]).parent)] += entry["seconds"]
        tests[entry["test"].partition("[")[0]] += entry["seconds"]
    lines = [f"{seconds:8.1f} s  {name}" for name, seconds in sorted(folders.items())]
    lines += [f"{sum(folders.values()):8.1f} s  in all", ""]
    most = sorted(tests, key=lambda name: -tests[name])[:dearest]
    return "\n".join([*lines, *(f"{tests[name]:8.1f} s  {name}" for name in most)])


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
