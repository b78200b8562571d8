"""What each experiment is for: the first comment of its file, as ``diffopd experiments`` lists it."""

from __future__ import annotations

import itertools
from pathlib import Path

from diffopd.config.aliases import aliases

PACKAGE = "# @package"
"""Hydra's own first line of such a file."""


def experiment_lines(folder: Path) -> dict[str, str]:
    """Name of each experiment, as ``+experiment=<name>`` takes it, and what it is for.

    Those that are another with a few words changed say so. Those of a folder within, such as ablations, come
    last.

    Args:
        folder: ``conf/experiment``, or one like it.

    Raises:
        ValueError: If a file says nothing.
    """
    files = sorted(folder.rglob("*.yaml"))
    lines = {file.relative_to(folder).with_suffix("").as_posix(): first_comment(file) for file in files}
    for alias, node in aliases().items():
        group, _, name = alias.rpartition("/")
        if group == folder.name:
            base, *changed = node["defaults"]
            settings = [
                f"{key.split('/')[-1]}={value}"
                for entry in changed
                if isinstance(entry, dict)
                for key, value in entry.items()
            ]
            lines[name] = f"{base} with {', '.join(settings)}"
    return dict(sorted(lines.items(), key=lambda line: ("/" in line[0], line[0])))


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
