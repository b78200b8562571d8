"""What a page needs of a run in one small file: tables and curves can be made again without the run."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffopd.evaluation import EvaluationResult
from diffopd.files.atomic import replacing
from diffopd.files.paths import home
from diffopd.report.methods.runs import ARCHIVE, Run, Series

FORMAT = 1
EARLIER = "earlier"
"""Folder for the files of runs that are no longer on a page."""
_SHORT, _LONG = "float32", "float64"
"""How values are written: logged ones are float32 mostly, which half the digits give exactly."""


def archive_runs(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write each run into a file of its own; files of other runs in the folder are moved to ``earlier``.

    Pictures, weights and the config's ``paths`` are left out. Working directories, the report's own and that
    in which a run was trained, are written as ``.``, the user's own folder as ``~``, and the folder in which
    runs from elsewhere lie as ``.``, too.

    Args:
        runs: In the order to show them.
        folder: Gets ``<name>_seed<n>.run.json.gz``, with a number where two have that name.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    elsewhere = _outside([run.folder for run in runs])
    for number, run in enumerate(runs):
        paths.append(folder / f"{number:03d}_{run.name.replace('/', '_')}_seed{run.seed}{ARCHIVE}")
        text = json.dumps(_plain(run), separators=(",", ":"), allow_nan=False)
        text = _without_places(text, [*_trained_in(run), *elsewhere])
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    shown = {_unnumbered(path) for path in paths}
    for path in sorted(folder.glob(f"*{ARCHIVE}")):
        if path not in paths and _unnumbered(path) in shown:
            path.unlink()
        elif path not in paths:  # the only copy, maybe, as a page can be made from these files
            (folder / EARLIER).mkdir(exist_ok=True)
            path.replace(folder / EARLIER / path.name)
    return paths


def _unnumbered(path: Path) -> str:
    return path.name.partition("_")[2]


def read_archive(path: Path) -> Run:
    """Read what :func:`archive_runs` wrote.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        raw = json.loads(gzip.decompress(path.read_bytes()))
        if raw.get("format") != FORMAT:
            raise ValueError(f"its format is {raw.get('format')}, this code reads {FORMAT}")
        return _run(raw)
    except (OSError, EOFError, zlib.error, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a run saved by a report ({error})") from error


def _plain(run: Run) -> dict[str, Any]:
    kept = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    return kept | {
        "format": FORMAT,
        "folder": str(run.folder),
        "settings": {key: value for key, value in run.settings.items() if key != "paths"},
        "config_texts": {stage: _without_paths(text) for stage, text in run.config_texts.items()},
        "series": {
            name: [list(series.rounds), *_written(series.values)] for name, series in run.series.items()
        },
        "minutes": [[number, end] for number, end in run.minutes.items()],
        "results": [[path.name, dataclasses.asdict(result)] for path, result in run.results],
    }


def _run(raw: Mapping[str, Any]) -> Run:
    folder = Path(raw["folder"])
    return Run(
        **{
            **{key: value for key, value in raw.items() if key != "format"},
            "folder": folder,
            "series": {
                name: Series(rounds, _read(kind, values))
                for name, (rounds, kind, values) in raw["series"].items()
            },
            "minutes": {int(number): end for number, end in raw["minutes"]},
            "results": [(folder / name, EvaluationResult.of(entry)) for name, entry in raw["results"]],
        }
    )


def _written(values: Sequence[float]) -> tuple[str, list[float]]:
    """Kind and values, exact."""
    short = np.array(values, np.float32)
    if np.array_equal(short.astype(np.float64), np.array(values)):
        return _SHORT, [float(str(value)) for value in short]
    return _LONG, list(values)


def _read(kind: str, values: Sequence[float]) -> list[float]:
    return np.array(values, np.float32).astype(np.float64).tolist() if kind == _SHORT else list(values)


def _without_paths(text: str) -> str:
    """A config without its ``paths``, which name folders of one machine."""
    kept, inside = [], False
    for line in text.splitlines():
        inside = line.startswith("paths:") or (inside and (line.startswith(" ") or not line))
        if not inside:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _outside(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """The folder that holds all of these that are not in the working directory, and what to write for it."""
    outside = [folder.parent for folder in folders if not folder.absolute().is_relative_to(Path.cwd())]
    return [(Path(os.path.commonpath(outside)), ".")] if outside else []


def _trained_in(run: Run) -> list[tuple[Path, str]]:
    """The working directory in which a run was trained, and what to write for it."""
    paths = run.settings.get("paths") or {}
    root, folder = Path(str(paths.get("root") or "")), Path(str(paths.get("run") or ""))
    if root.is_absolute():
        return [(root.parent, ".")]
    holding = [parent for parent in folder.parents if root.parts and folder.is_relative_to(parent / root)]
    return [(parent, ".") for parent in holding[:1]]


def _without_places(text: str, others: Sequence[tuple[Path, str]]) -> str:
    for place, shown in ((Path.cwd(), "."), *others, (home(), "~")):
        if place is not None and len(place.parts) > 1:
            text = text.replace(json.dumps(str(place))[1:-1], shown)
    return text
