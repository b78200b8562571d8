"""What each experiment is for: the first comment of its file, as ``diffopd experiments`` lists it."""

from __future__ import annotations

import itertools
from pathlib import Path

PACKAGE = "# @package"
"""Hydra's own first line of such a file."""


def experiment_lines(folder: Path) -> dict[str, str]:
    """Name of each experiment, as ``+experiment=<name>`` takes it, and what it is for.

    Those of a folder within, such as ablations, come last.

    Args:
        folder: ``conf/experiment``, or one like it.

    Raises:
        ValueError: If a file says nothing.
    """
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.relative_to(folder).parts), file))
    return {file.relative_to(folder).with_suffix("").as_posix(): first_comment(file) for file in files}


def first_comment(file: Path) -> str:
    """The first line of the comment that a config begins with, after an instruction to Hydra.

    Raises:
        ValueError: If there is none.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    for line in itertools.takewhile(lambda line: line.startswith("#"), lines):
        if not line.startswith(PACKAGE):
            return line.removeprefix("#").strip()
    raise ValueError(f"{file} must begin with a comment that says what the experiment is for")
