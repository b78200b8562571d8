"""Where runs are: folders of runs, cascades, and the files that a page keeps of its runs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffopd.files.names import CONFIG
from diffopd.files.paths import expanded
from diffopd.report.methods.archive import EARLIER, read_archive
from diffopd.report.methods.runs import ARCHIVE, STAGE, Run, read_run, settings_of
from diffopd.run.metrics_csv import METRICS

_NO_RUNS_INSIDE = (
    "images",
    "checkpoints",
    "tensorboard",
    "adapter",
    "lora",
    ".hydra",
    "scores",
    "report",
    EARLIER,
)


def find_runs(places: Iterable[str]) -> list[Run]:
    """Read every run in some folders, at any depth, but what earlier pages keep of theirs in between.

    Args:
        places: Folders or globs.

    Returns:
        In the order of the places, within one by folder; files that a page keeps of its runs count as runs.

    Raises:
        ValueError: If a place is not there, or no run is in any of them, or a run's file cannot be read.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = sorted(glob.glob(str(expanded(place)), recursive=True))
        if not found:
            raise ValueError(f"runs has {place}, but there is no such folder ({Path(place).absolute()})")
        for top in found:
            folders |= dict.fromkeys(sorted(_run_folders(Path(top))))
    if not folders:
        raise ValueError(
            f"runs={list(places)}: no folder there holds a run, that is a {METRICS}, or the {CONFIG} of a "
            "training"
        )
    return [read_archive(place) if place.name.endswith(ARCHIVE) else read_run(place) for place in folders]


def _run_folders(top: Path) -> Iterator[Path]:
    if top.name.endswith(ARCHIVE):
        yield top
    for place, inside, files in os.walk(top):
        folder = Path(place)
        if not folder.parent.joinpath("index.html").is_file() or top in (folder, folder.parent):
            yield from (folder / name for name in files if name.endswith(ARCHIVE))
        if any((folder / name / CONFIG).is_file() for name in inside if STAGE.fullmatch(name)):
            yield folder
            inside.clear()
        elif METRICS in files or (CONFIG in files and "phase" in settings_of(folder / CONFIG)):
            yield folder
        inside[:] = sorted(
            name for name in inside if name not in _NO_RUNS_INSIDE and not name.startswith("previous_")
        )
