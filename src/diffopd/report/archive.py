"""What a page needs of a run in one small file: tables and curves can be made again without the run."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffopd.evaluation import EvaluationResult
from diffopd.files import replacing
from diffopd.report.runs import ARCHIVE, Run, Series

FORMAT = 1
_DIGITS = 9
"""Significant digits of logged values; float32 has fewer."""


def archive_runs(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write each run into a file of its own; files of earlier runs in the folder are removed.

    Pictures, weights and the config's ``paths`` are left out; the working directory and the user's own folder
    are written as ``.`` and ``~``.

    Args:
        runs: In the order to show them.
        folder: Gets ``<name>_seed<n>.run.json.gz``, with a number where two have that name.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for number, run in enumerate(runs):
        paths.append(folder / f"{number:03d}_{run.name.replace('/', '_')}_seed{run.seed}{ARCHIVE}")
        text = json.dumps(_plain(run), sort_keys=True, separators=(",", ":"), allow_nan=False)
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(gzip.compress(_without_places(text).encode(), mtime=0))
    for path in folder.glob(f"*{ARCHIVE}"):
        if path not in paths:
            path.unlink()
    return paths


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
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no run that a report kept ({error})") from error


def _plain(run: Run) -> dict[str, Any]:
    kept = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    return kept | {
        "format": FORMAT,
        "folder": str(run.folder),
        "settings": {key: value for key, value in run.settings.items() if key != "paths"},
        "config_texts": {stage: _without_paths(text) for stage, text in run.config_texts.items()},
        "series": {
            name: [list(series.rounds), [_rounded(value) for value in series.values]]
            for name, series in run.series.items()
        },
        "minutes": [[number, _rounded(end)] for number, end in run.minutes.items()],
        "results": [[path.name, dataclasses.asdict(result)] for path, result in run.results],
    }


def _run(raw: Mapping[str, Any]) -> Run:
    folder = Path(raw["folder"])
    return Run(
        **{
            **{key: value for key, value in raw.items() if key != "format"},
            "folder": folder,
            "series": {name: Series(*columns) for name, columns in raw["series"].items()},
            "minutes": {int(number): end for number, end in raw["minutes"]},
            "results": [(folder / name, EvaluationResult.of(entry)) for name, entry in raw["results"]],
        }
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _without_paths(text: str) -> str:
    """A config without its ``paths``, which name folders of one machine."""
    kept, inside = [], False
    for line in text.splitlines():
        inside = line.startswith("paths:") or (inside and (line.startswith(" ") or not line))
        if not inside:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _without_places(text: str) -> str:
    for place, shown in ((Path.cwd(), "."), (Path.home(), "~")):
        if len(place.parts) > 1:
            text = text.replace(json.dumps(str(place))[1:-1], shown)
    return text
