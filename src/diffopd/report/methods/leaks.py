"""What a teacher's context gave and leaked: context probes and leak tests of many runs as one table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run
from diffopd.report.methods.tables import mean_and_interval

HEADER = (
    "Method",
    "n",
    "teacher nearer by",
    "layout: trained",
    "layout: base",
    "rise",
    "latent: trained",
    "latent: base",
    "leaks",
)
DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class LeakTable:
    """A table ready to be shown.

    Attributes:
        header: Of its columns.
        lines: The cells of each method.
        note: What the numbers are.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str


def leak_table(methods: Sequence[Method]) -> LeakTable | None:
    """A line for each method with a context probe or a leak test; None if there is none."""
    measured = [method for method in methods if any(map(_is_measured, method.runs.values()))]
    if not measured:
        return None
    limits = {run.leak["least_rise"] for method in measured for run in method.runs.values() if run.leak}
    counted = ""
    if limits:
        least = " or ".join(f"{limit:g}" for limit in sorted(limits))
        counted = f" A leak: a rise of {least} or more, with an interval over prompts above 0."
    return LeakTable(header=HEADER, lines=[_line(method) for method in measured], note=_NOTE + counted)


_NOTE = (
    "Teacher nearer by: before the first round, how much nearer to the picture the teacher's predictions "
    "are, as a share of the student's squared distance. The others: after the last round, of samples of "
    "prompts that ask for something else, correlation of their layout with the nearest training picture, and "
    "squared distance from its latent, of the trained model and of the base model from the same noise."
)


def _is_measured(run: Run) -> bool:
    return bool(run.context or run.leak)


def _line(method: Method) -> list[str]:
    runs = list(method.runs.values())
    tested = [run for run in runs if run.leak]

    def over_seeds(what: str, whose: str) -> str:
        means = [statistics.fmean(entry[what][whose] for entry in run.leak["prompts"]) for run in tested]
        return mean_and_interval(means, DIGITS)

    return [
        method.label,
        f"{len(runs)}",
        mean_and_interval([run.context["share"] for run in runs if run.context], DIGITS),
        *(over_seeds("layout", whose) for whose in ("trained", "base")),
        mean_and_interval([run.leak["rise"]["mean"] for run in tested], DIGITS),
        *(over_seeds("latent", whose) for whose in ("trained", "base")),
        f"{sum(run.leak['leaks'] for run in tested)} of {len(tested)}" if tested else "-",
    ]
