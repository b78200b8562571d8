"""Runs as their folders hold them: settings, metrics round by round, scores, what they cost."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffopd.evaluation import EvaluationResult
from diffopd.report.curve import SECONDS

CONFIG, METRICS, FINISHED = "config.yaml", "metrics.csv", "finished.json"
"""Files of a run's folder. ``diffopd.resume`` writes the first and the last, and reads OmegaConf besides."""
NOTED_COMMAND = ".hydra/command.txt"
"""Of ``diffopd.recorded``, which reads Hydra besides."""
_NO_RUNS_INSIDE = ("images", "checkpoints", "tensorboard", "adapter", "lora", ".hydra", "scores", "report")
_STAGE = re.compile(r"\d+_\w+")
"""Folder of a cascade's stage."""


@dataclass(frozen=True)
class Series:
    """A metric over a run.

    Attributes:
        rounds: Numbers of the rounds with a value, from 1, rising.
        values: The values.
    """

    rounds: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, or a cascade of trainings taken as one.

    Attributes:
        folder: Its folder.
        name: The ``name`` of its config.
        seed: Its seed.
        finished: Whether it is trained and reported, with as many rounds as its config asks for.
        num_rounds: Rounds with metrics.
        planned_rounds: ``trainer.max_epochs``, or None where the config is missing.
        settings: Its config; of a cascade, its last stage's.
        config_texts: Name of the stage, empty for a training -> its config as YAML.
        command: The command that made it, empty if unknown.
        commit: Commit of the code, empty if unknown; it is noted when a run ends.
        series: Metric -> values.
        minutes: Round -> training minutes at its end; empty if not logged.
        images: Images sampled in training, or None if unknown.
        reward_calls: Images scored in training, or None if unknown.
        results: What was scored after training.
    """

    folder: Path
    name: str
    seed: int
    finished: bool
    num_rounds: int
    planned_rounds: int | None
    settings: Mapping[str, Any]
    config_texts: Mapping[str, str]
    command: str
    commit: str
    series: Mapping[str, Series]
    minutes: Mapping[int, float]
    images: int | None
    reward_calls: int | None
    results: Sequence[tuple[Path, EvaluationResult]]

    @property
    def guidance_scale(self) -> float | None:
        """The guidance it was trained for."""
        sampler = self.settings.get("sampler")
        return float(sampler["guidance_scale"]) if sampler and "guidance_scale" in sampler else None

    def family(self, prefix: str) -> dict[str, Series]:
        """Metrics of a prefix such as ``train/reward/``: last part of the name -> values."""
        return {
            name.removeprefix(prefix): series
            for name, series in self.series.items()
            if name.startswith(prefix)
        }


def find_runs(places: Iterable[str]) -> list[Run]:
    """Read every run in some folders, at any depth.

    Args:
        places: Folders or globs.

    Returns:
        In the order of the places, within one by folder.

    Raises:
        ValueError: If a place is not there, or no run is in any of them, or a run's file cannot be read.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = sorted(glob.glob(os.path.expanduser(place), recursive=True))
        if not found:
            raise ValueError(f"runs has {place}, and there is no such folder ({Path(place).absolute()})")
        for top in found:
            folders |= dict.fromkeys(sorted(_run_folders(Path(top))))
    if not folders:
        raise ValueError(
            f"runs={list(places)}: no folder in there holds a run, that is a {METRICS}, or the {CONFIG} of a "
            "training"
        )
    return [read_run(folder) for folder in folders]


def _run_folders(top: Path) -> Iterator[Path]:
    for place, inside, files in os.walk(top):
        folder = Path(place)
        if any((folder / name / CONFIG).is_file() for name in inside if _STAGE.fullmatch(name)):
            yield folder
            inside.clear()
        elif METRICS in files or (CONFIG in files and "phase" in _settings(folder / CONFIG)):
            yield folder
        inside[:] = sorted(
            name for name in inside if name not in _NO_RUNS_INSIDE and not name.startswith("previous_")
        )


def read_run(folder: Path) -> Run:
    """Read one run, or the stages of a cascade one after the other.

    Raises:
        ValueError: If a file cannot be read.
    """
    stages = sorted(
        (entry for entry in folder.iterdir() if _STAGE.fullmatch(entry.name) and (entry / CONFIG).is_file()),
        key=lambda entry: int(entry.name.partition("_")[0]),
    )
    return (
        _read_cascade(folder, [_read_training(stage) for stage in stages])
        if stages
        else _read_training(folder)
    )


def _read_training(folder: Path) -> Run:
    config, finished = folder / CONFIG, folder / FINISHED
    settings = _settings(config) if config.is_file() else {}
    note = _json(finished) if finished.is_file() else {}
    recipe = note.get("recipe", {})
    series, minutes = _read_metrics(folder / METRICS)
    planned = settings.get("trainer", {}).get("max_epochs")
    return Run(
        folder=folder,
        name=str(settings.get("name", folder.name)),
        seed=int(settings.get("seed", 0)),
        # a run that is going on with more rounds still has the note of its first end
        finished=bool(note) and note.get("max_rounds") == planned,
        num_rounds=max((values.rounds[-1] for values in series.values()), default=0),
        planned_rounds=planned,
        settings=settings,
        config_texts={"": config.read_text(encoding="utf-8")} if settings else {},
        command=recipe.get("command") or _command(folder),
        commit=recipe.get("commit", ""),
        series=series,
        minutes=minutes,
        images=_total(series, "train/cost/images"),
        reward_calls=_total(series, "train/cost/reward_calls"),
        results=list(_results(folder)),
    )


def _read_cascade(folder: Path, stages: Sequence[Run]) -> Run:
    asked = folder / ".hydra" / CONFIG
    num_stages = len(_settings(asked).get("stages", ())) if asked.is_file() else len(stages)
    series: dict[str, Series] = {}
    minutes: dict[int, float] = {}
    for stage in stages:
        rounds_before, minutes_before = max(minutes, default=0), max(minutes.values(), default=0.0)
        for name, values in stage.series.items():
            earlier = series.get(name, Series((), ()))
            shifted = [number + rounds_before for number in values.rounds]
            series[name] = Series([*earlier.rounds, *shifted], [*earlier.values, *values.values])
        minutes |= {number + rounds_before: minutes_before + end for number, end in stage.minutes.items()}
    last = stages[-1]
    return Run(
        folder=folder,
        name=folder.parent.name,
        seed=last.seed,
        finished=len(stages) == num_stages and all(stage.finished for stage in stages),
        num_rounds=sum(stage.num_rounds for stage in stages),
        planned_rounds=sum(stage.planned_rounds or 0 for stage in stages),
        settings=last.settings,
        config_texts={stage.folder.name: text for stage in stages for text in stage.config_texts.values()},
        command=" && ".join(stage.command for stage in stages),
        commit=", ".join(dict.fromkeys(stage.commit for stage in stages if stage.commit)),
        series=series,
        minutes=minutes,
        images=_total(series, "train/cost/images"),
        reward_calls=_total(series, "train/cost/reward_calls"),
        results=[*last.results, *_results(folder)],
    )


def _read_metrics(path: Path) -> tuple[dict[str, Series], dict[int, float]]:
    """Metric -> values, and round -> minutes. A round's value is the mean of its lines that have one.

    A round is Lightning's epoch, counted from 1; a value that is not finite is left out.
    """
    if not path.is_file():
        return {}, {}
    found: dict[str, dict[int, list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file)):
            try:
                values = {name: float(text) for name, text in line.items() if text}
            except ValueError as error:
                raise ValueError(f"{path}, line {number + 2}: {error}") from error
            place = round(values.get("epoch", number)) + 1
            for name, value in values.items():
                if name not in ("step", "epoch") and math.isfinite(value):
                    found.setdefault(name, {}).setdefault(place, []).append(value)
    series = {
        name: Series(
            sorted(by_round), [sum(by_round[number]) / len(by_round[number]) for number in sorted(by_round)]
        )
        for name, by_round in found.items()
    }
    minutes, now = {}, 0.0
    for number, values in sorted(found.get(SECONDS, {}).items()):
        now += sum(values) / 60
        minutes[number] = now
    return series, minutes


def _results(folder: Path) -> Iterator[tuple[Path, EvaluationResult]]:
    """Evaluations in ``report/`` and ``scores/``."""
    for path in [*sorted(folder.glob("report/*.json")), *sorted(folder.glob("scores/*/results.json"))]:
        if {"benchmark", "tasks"} <= _json(path).keys():
            yield path, EvaluationResult.load(path)


def _command(folder: Path) -> str:
    """From what is noted when a run starts, for one that has not ended."""
    if (note := folder / NOTED_COMMAND).is_file():
        return note.read_text(encoding="utf-8").strip()
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return ""
    overrides = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return shlex.join(["python", "-m", "diffopd.train", *map(str, overrides)])


def _total(series: Mapping[str, Series], name: str) -> int | None:
    return round(sum(series[name].values)) if name in series else None


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    return settings if isinstance(settings, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return value if isinstance(value, dict) else {}
