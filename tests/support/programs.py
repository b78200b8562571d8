"""This package's commands as users call them: in a folder of their own, with nothing inherited but paths."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 900


def inherited() -> dict[str, str]:
    """The environment of a command: paths, and one torch thread."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1"}


def start(folder: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Begin ``python -m diffopd.<program>`` in ``folder``; one torch thread."""
    return subprocess.Popen(
        [sys.executable, "-m", f"diffopd.{program}", *arguments],
        cwd=folder,
        env=inherited(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(folder, program, *arguments)
    try:
        printed, complaints = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, printed, complaints)
