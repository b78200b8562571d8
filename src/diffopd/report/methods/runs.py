"""Runs as their folders hold them: settings, metrics round by round, scores, what they cost."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffopd.config.guidance import trained_guidance
from diffopd.evaluation import EvaluationResult
from diffopd.files.names import CONFIG
from diffopd.files.sealed import SEAL, read_sealed_json, read_sealed_text
from diffopd.report.run.curve import SECONDS
from diffopd.run.finished import read_finished
from diffopd.run.metrics_csv import EPOCH, METRICS, STEP, read_rows

TABLE = "report/table.json"
TABLE_KEYS = ("title", "rows", "gain_kept")
"""What ``diffopd.report.run.table.FinalTable`` holds."""
CONTEXT, LEAK = "context_probe.json", "leak_test.json"
"""What ``callbacks.context_probe`` and ``callbacks.leak_test`` write."""
NOTED_COMMAND = ".hydra/command.txt"
"""Of ``diffopd.run.recorded``, which reads Hydra besides."""

ARCHIVE = ".run.json.gz"
"""Ending of a run's file beside a page (``diffopd.report.methods.archive``)."""

STAGE = re.compile(r"\d+_\w+")
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
    """A run, or a cascade of runs taken as one.

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
        table: Base, teachers and student as the run's own report has them; empty without one.
        context: What its context probe measured before the first round; empty without one.
        leak: What its leak test measured after the last; empty without one.
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
    table: Mapping[str, Any]
    context: Mapping[str, Any] = field(default_factory=dict)  # pages of earlier versions lack these two
    leak: Mapping[str, Any] = field(default_factory=dict)

    @property
    def guidance_scale(self) -> float | None:
        """The guidance it was trained for."""
        return trained_guidance(self.settings)

    def family(self, prefix: str) -> dict[str, Series]:
        """Metrics of a prefix such as ``train/reward/``: last part of the name -> values."""
        return {
            name.removeprefix(prefix): series
            for name, series in self.series.items()
            if name.startswith(prefix)
        }


def read_run(folder: Path) -> Run:
    """Read one run, or the stages of a cascade one after the other.

    Raises:
        ValueError: If a file cannot be read.
    """
    stages = sorted(
        (entry for entry in folder.iterdir() if STAGE.fullmatch(entry.name) and (entry / CONFIG).is_file()),
        key=lambda entry: int(entry.name.partition("_")[0]),
    )
    return (
        _read_cascade(folder, [_read_training(stage) for stage in stages])
        if stages
        else _read_training(folder)
    )


def _read_training(folder: Path) -> Run:
    config, note = folder / CONFIG, read_finished(folder)
    settings = settings_of(config) if config.is_file() else {}
    recipe = {} if note is None else note.recipe
    series, minutes = _read_metrics(folder / METRICS)
    planned = settings.get("trainer", {}).get("max_epochs")
    return Run(
        folder=folder,
        name=str(settings.get("name", folder.name)),
        seed=int(settings.get("seed", 0)),
        finished=note is not None and note.max_rounds == planned,
        num_rounds=max((values.rounds[-1] for values in series.values()), default=0),
        planned_rounds=planned,
        settings=settings,
        config_texts={"": read_sealed_text(config)} if settings else {},
        command=recipe.get("command") or _command(folder),
        commit=recipe.get("commit", ""),
        series=series,
        minutes=minutes,
        images=_total(series, "train/cost/images"),
        reward_calls=_total(series, "train/cost/reward_calls"),
        results=list(_results(folder)),
        table=read_sealed_json(folder / TABLE, TABLE_KEYS) if (folder / TABLE).is_file() else {},
        context=_json(folder / CONTEXT) if (folder / CONTEXT).is_file() else {},
        leak=_json(folder / LEAK) if (folder / LEAK).is_file() else {},
    )


def _read_cascade(folder: Path, stages: Sequence[Run]) -> Run:
    asked = folder / ".hydra" / CONFIG
    num_stages = len(settings_of(asked).get("stages", ())) if asked.is_file() else len(stages)
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
        table={},
    )


def _read_metrics(path: Path) -> tuple[dict[str, Series], dict[int, float]]:
    """Metric -> values, and round -> minutes. A round's value is the mean of its lines that have one.

    A round is Lightning's epoch, counted from 1; a value that is not finite is left out.
    """
    if not path.is_file():
        return {}, {}
    found: dict[str, dict[int, list[float]]] = {}
    for number, line in enumerate(read_rows(path)):
        values = {name: float(text) for name, text in line.items()}
        place = round(values.get(EPOCH, number)) + 1
        for name, value in values.items():
            if name not in (STEP, EPOCH) and math.isfinite(value):
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
    """Evaluations in ``report/`` and ``scores/``; a damaged one is an error and never merely left out."""
    for path in [*sorted(folder.glob("report/*.json")), *sorted(folder.glob("scores/*/results.json"))]:
        if path != folder / TABLE and {"benchmark", "tasks", SEAL} & _json(path).keys():
            yield path, EvaluationResult.load(path)


def _command(folder: Path) -> str:
    """From what is noted when a run starts, for one that has not ended."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):  # not there, or damaged: it is unknown
        if (note := folder / NOTED_COMMAND).is_file():
            return note.read_text(encoding="utf-8").strip()
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        if isinstance(overrides, list):
            return shlex.join(["python", "-m", "diffopd.train", *map(str, overrides)])
    return ""


def _total(series: Mapping[str, Series], name: str) -> int | None:
    return round(sum(series[name].values)) if name in series else None


def settings_of(path: Path) -> dict[str, Any]:
    """A ``config.yaml`` as plain values.

    Raises:
        ValueError: If it is not YAML.
    """
    try:
        settings = yaml.safe_load(read_sealed_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    return settings if isinstance(settings, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return value if isinstance(value, dict) else {}
