"""Tables over seeds: benchmark scores with the claims they bear on, time and memory."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffopd.report.claims import Verdict
from diffopd.report.curve import SECONDS
from diffopd.report.methods import Method
from diffopd.report.runs import Run

_TIME, _MEMORY = "train/time/", "train/memory/"


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A method at one guidance scale.

    Attributes:
        name: Its label.
        note: What is special about the row.
        guidance_scale: Guidance of the images.
        num_seeds: How many seeds; None for base and teachers, which are no methods of these runs.
        cells: One text per column of the table.
        verdicts: Of the claims that say this method is better than another.
    """

    name: str
    note: str
    guidance_scale: float
    num_seeds: int | None
    cells: Sequence[str]
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores on one benchmark.

    Attributes:
        benchmark: Its name.
        columns: Tasks, the mean over them, held-out metrics.
        rows: The methods.
    """

    benchmark: str
    columns: Sequence[str]
    rows: Sequence[ScoreRow]


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """What each method took.

    Attributes:
        columns: Quantities with their units.
        rows: Label of a method -> one text per column.
    """

    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def score_tables(methods: Sequence[Method], verdicts: Sequence[Verdict]) -> list[ScoreTable]:
    """A table for each benchmark: base and teachers as the first run has them, then the methods."""
    benchmarks = dict.fromkeys(
        result.benchmark for method in methods for run in method.runs.values() for _, result in run.results
    )
    return [_score_table(benchmark, methods, verdicts) for benchmark in benchmarks]


def _score_table(benchmark: str, methods: Sequence[Method], verdicts: Sequence[Verdict]) -> ScoreTable:
    found: dict[tuple[str, float], dict[int, Mapping[str, float]]] = {}
    for method in methods:
        for seed, run in method.runs.items():
            for _, result in run.results:
                if result.benchmark == benchmark:
                    scores = {task: estimate.mean for task, estimate in result.estimates.items()}
                    found.setdefault((method.label, result.guidance_scale), {}).setdefault(seed, scores)
    given = _given_rows(benchmark, methods)
    every = [*(scores for seeds in found.values() for scores in seeds.values()), *given.values()]
    tasks = list(dict.fromkeys(task for scores in every for task in scores))
    rows = [
        ScoreRow(
            name=name,
            note="",
            guidance_scale=scale,
            num_seeds=None,
            cells=_cells([scores], tasks),
            verdicts=(),
        )
        for (name, scale, _), scores in given.items()
    ]
    by_label = {method.label: method for method in methods}
    seen: set[str] = set()
    for (label, scale), seeds in found.items():
        own = [v for v in verdicts if v.claim.method in (by_label[label].key, label)]
        trained_at = next(iter(by_label[label].runs.values())).guidance_scale
        rows.append(
            ScoreRow(
                name=label,
                note="as trained" if scale == trained_at else "",
                guidance_scale=scale,
                num_seeds=len(seeds),
                cells=_cells(list(seeds.values()), tasks),
                verdicts=() if label in seen else own,
            )
        )
        seen.add(label)
    return ScoreTable(benchmark=benchmark, columns=[*tasks, "mean of tasks"], rows=rows)


def _given_rows(
    benchmark: str, methods: Sequence[Method]
) -> dict[tuple[str, float, int], Mapping[str, float]]:
    """Base and teachers of the runs' own tables: name, guidance, which of several -> scores."""
    given: dict[tuple[str, float, int], Mapping[str, float]] = {}
    for method in methods:
        for run in method.runs.values():
            for name, scale, scores in _own_table(run, benchmark):
                alike = [known for (n, s, _), known in given.items() if (n, s) == (name, scale)]
                if scores and scores not in alike:
                    given[name, scale, len(alike)] = scores
    return given


def _own_table(run: Run, benchmark: str) -> list[tuple[str, float, Mapping[str, float]]]:
    path = run.folder / "report" / "table.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if str(table.get("title", "")).partition(":")[0] != benchmark:
        return []
    return [
        (row["name"], row["guidance_scale"], {task: score["mean"] for task, score in row["scores"].items()})
        for row in table["rows"]
        if row["name"] != "student"
    ]


def _cells(seeds: Sequence[Mapping[str, float]], tasks: Sequence[str]) -> list[str]:
    columns = [[scores[task] for scores in seeds if task in scores] for task in tasks]
    complete = [scores for scores in seeds if set(tasks) <= set(scores)]
    whole = [statistics.fmean(scores[task] for task in tasks) for scores in complete]
    return [mean_and_deviation(values, 3) for values in [*columns, whole]]


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """``mean ± standard deviation`` over seeds; the value alone for one seed, a dash for none."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):,.{digits}f}{spread}"


def cost_table(methods: Sequence[Method]) -> CostTable:
    """Training minutes, images and reward calls; every ``train/time`` and ``train/memory`` metric."""
    names = dict.fromkeys(
        name
        for method in methods
        for run in method.runs.values()
        for name in run.series
        if name.startswith((_TIME, _MEMORY))
    )
    columns = {
        "seeds": lambda method: f"{method.num_seeds}",
        "rounds": lambda method: _whole([run.num_rounds for run in method.runs.values()]),
        "minutes of training": lambda method: mean_and_deviation(_minutes(method), 1),
        "images drawn": lambda method: _whole([run.images for run in method.runs.values()]),
        "images scored": lambda method: _whole([run.reward_calls for run in method.runs.values()]),
        **{
            title_of(name): lambda method, name=name: mean_and_deviation(_over_rounds(method, name), 2)
            for name in names
        },
    }
    counted = [method for method in methods if method.runs]
    return CostTable(
        columns=list(columns),
        rows={method.label: [column(method) for column in columns.values()] for method in counted},
    )


def cost_bars(methods: Sequence[Method]) -> dict[str, dict[str, list[float]]]:
    """Quantity -> label -> one value per seed, of time and memory; without what no run logged."""
    quantities = {
        "minutes of training": _minutes,
        **{
            title_of(name): lambda method, name=name: _over_rounds(method, name)
            for name in (SECONDS, f"{_MEMORY}peak_rss_gib", f"{_MEMORY}peak_cuda_gib")
        },
    }
    bars = {
        title: {method.label: values for method in methods if (values := of(method))}
        for title, of in quantities.items()
    }
    return {title: found for title, found in bars.items() if found}


def title_of(name: str) -> str:
    """What a reader calls a metric of time or memory.

    Examples:
        >>> title_of("train/memory/peak_cuda_gib")
        'peak GPU memory, GiB'
        >>> title_of("train/time/seconds_rollout")
        'seconds rollout'
    """
    titles = {
        SECONDS: "seconds per round",
        f"{_TIME}samples_per_second": "samples per second",
        f"{_MEMORY}peak_rss_gib": "peak memory of the process, GiB",
        f"{_MEMORY}peak_cuda_gib": "peak GPU memory, GiB",
    }
    return titles.get(name, name.rpartition("/")[2].replace("_", " "))


def _minutes(method: Method) -> list[float]:
    return [max(run.minutes.values()) for run in method.runs.values() if run.minutes]


def _over_rounds(method: Method, name: str) -> list[float]:
    """Each seed's median over rounds, for memory its highest."""
    summary = max if name.startswith(_MEMORY) else statistics.median
    return [float(summary(run.series[name].values)) for run in method.runs.values() if name in run.series]


def _whole(values: Sequence[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return "-"
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
