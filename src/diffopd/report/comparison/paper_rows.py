"""Rows of the paper's Table 1 and rows of models evaluated here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffopd.evaluation import EvaluationResult
from diffopd.files.paths import resolve_path

RESULTS = "results.json"
OWN = "here"
"""Source of a row made here."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the table.

    Attributes:
        name: Whose scores these are.
        source: Where they come from.
        hours: Hours of training as they are to be shown, or None.
        scores: Column -> score; a column may be lacking.
        images: Column -> number of images scored; empty where the source does not say.
        results: benchmark -> what the scores are of, for rows made here.
        printed: The average that the source prints, or None.
    """

    name: str
    source: str
    hours: str | None
    scores: Mapping[str, float]
    printed: float | None
    images: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, EvaluationResult] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Rows of a publication.

    Attributes:
        source: The publication and its table.
        labels: Column -> what it is called there.
        rows: Its rows in their order.
    """

    source: str
    labels: Mapping[str, str]
    rows: Sequence[PaperRow]


def read_reference(path: str) -> Reference:
    """Rows of a publication from a JSON file such as ``package://assets/paper/table1.json``.

    Raises:
        ValueError: If there is no such file.
    """
    try:
        raw = json.loads(Path(resolve_path(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"reference={path} cannot be read: {error}") from error
    rows = [
        PaperRow(
            name=row["name"] + (f" ({row['image_size']} px)" if row["image_size"] != 512 else ""),
            source=raw["source"],
            hours=row["hours"],
            scores=row["scores"],
            printed=row["average_printed"],
        )
        for row in raw["rows"]
    ]
    return Reference(source=raw["source"], labels=raw["columns"], rows=rows)


def own_row(
    name: str, places: Sequence[str], columns: Mapping[str, Mapping[str, str]], *, hours: float | None
) -> PaperRow:
    """A model's row from what ``diffopd.evaluate`` wrote.

    Args:
        name: Of the row.
        places: Files ``results.json`` or their folders, each of another benchmark.
        columns: Column -> ``benchmark``, ``task`` and ``score``: ``value`` or the name of a part.
        hours: Hours of training, or None.

    Raises:
        ValueError: If a file is not there, two are of one benchmark, or none has anything for any column.
    """
    setting = f"models.{name}.results"
    found: dict[str, EvaluationResult] = {}
    for place in places:
        file = Path(place) / RESULTS if Path(place).is_dir() else Path(place)
        if not file.is_file():
            raise ValueError(f"{setting}: there is no {file}; is that evaluation finished?")
        result = EvaluationResult.load(file)
        if result.benchmark in found:
            raise ValueError(f"{setting} has two results of benchmark {result.benchmark}; give one of each")
        found[result.benchmark] = result
    scores: dict[str, float] = {}
    images: dict[str, int] = {}
    for column, entry in columns.items():
        of_task = found[entry["benchmark"]].tasks.get(entry["task"]) if entry["benchmark"] in found else None
        if of_task is None:
            continue
        if entry["score"] == "value":
            scores[column] = of_task.value.mean
        elif entry["score"] in of_task.parts:
            scores[column] = of_task.parts[entry["score"]]
        if column in scores:
            images[column] = of_task.value.n
    if not scores:
        raise ValueError(
            f"{setting} holds results of {', '.join(found) or 'no benchmark'}, and none of the scores that "
            f"the columns ask for ({', '.join(columns)}) is in them; see columns in conf/paper_table.yaml"
        )
    return PaperRow(
        name=name,
        source=OWN,
        hours=None if hours is None else f"{hours:g}",
        scores=scores,
        printed=None,
        images=images,
        results=found,
    )


def check_alike(rows: Sequence[PaperRow]) -> None:
    """Check that all rows made here were scored with the same settings.

    Raises:
        ValueError: With the two models and what differs.
    """
    first: dict[str, PaperRow] = {}
    for row in rows:
        for benchmark, result in row.results.items():
            other = first.setdefault(benchmark, row)
            if lines := result.differences(other.results[benchmark]):
                raise ValueError(
                    f"models.{row.name}.results and models.{other.name}.results were scored on {benchmark} "
                    f"with different settings: {'; '.join(lines)}. Evaluate both with one config"
                )
