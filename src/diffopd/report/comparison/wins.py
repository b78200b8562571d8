"""Which rows of a table win: those that meet every condition, each tested as a claim is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffopd.report.methods.claims import Claim
from diffopd.report.methods.measured import Measuring
from diffopd.report.methods.methods import group_runs
from diffopd.report.methods.runs import Run
from diffopd.report.methods.verdict import EQUAL, FAILS, HOLDS, Verdict
from diffopd.report.methods.verdicts import LEVEL, judge

BETTER, NOT_WORSE = "better", "not_worse"
MET, NOT_MET, OPEN = "yes", "no", "open"
_WINDOW = 9
_STEPS = "sampler.num_steps"
"""May differ between the two sides of a condition: a few steps are compared with many."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a row has to be, compared with another.

    Attributes:
        name: Short name.
        text: What it has to be, as a predicate without its subject.
        tasks: Tasks of the benchmark; the score is the mean over them.
        against: The row it is compared with.
        needs: ``better``, or ``not_worse``: better, or no difference larger than the margin.
        margin: A difference that just matters.
    """

    name: str
    text: str
    tasks: tuple[str, ...]
    against: str
    needs: str
    margin: float


@dataclass(frozen=True, kw_only=True)
class RowVerdict:
    """One row under every condition.

    Attributes:
        row: Its name.
        verdicts: Name of the condition -> what the runs say.
        met: Name of the condition -> ``yes``, ``no`` or ``open``.
    """

    row: str
    verdicts: Mapping[str, Verdict]
    met: Mapping[str, str]

    @property
    def wins(self) -> str:
        """``yes`` if every condition is met, ``no`` if one is not, else ``open``."""
        found = set(self.met.values())
        return NOT_MET if NOT_MET in found else OPEN if OPEN in found else MET


def read_conditions(node: Mapping[str, Any], rows: Sequence[str]) -> list[Condition]:
    """Conditions as a file of ``conf/wins`` has them: name -> the other fields.

    Args:
        node: The file's content.
        rows: Names of the table's rows.

    Raises:
        ValueError: If a condition compares with a row that is not there.
    """
    found = [
        Condition(name=name, **{**entry, "tasks": tuple(entry["tasks"])}) for name, entry in node.items()
    ]
    for condition in found:
        if condition.against not in rows:
            raise ValueError(
                f"wins.{condition.name}.against={condition.against} is not among the rows "
                f"({', '.join(rows)}); keep that row, or leave the rule out with wins=none"
            )
    return found


def judge_rows(
    conditions: Sequence[Condition],
    runs: Sequence[Run],
    trained: Sequence[str],
    *,
    benchmark: str,
) -> list[RowVerdict]:
    """Test every condition of every trained row, all together: p-values are adjusted for their number.

    A model that is not trained is the same whatever the seed, so its one run stands for every seed.

    Args:
        conditions: By :func:`read_conditions`.
        runs: One for each row and seed, called by the row.
        trained: Names of the rows that are judged, in order.
        benchmark: Whose scores are compared.
    """
    methods = group_runs(_with_all_seeds(runs, trained), {}, include_unfinished=True)
    claims = [_claim(condition, row) for row in trained for condition in conditions]
    measuring = Measuring(benchmark=benchmark, window=_WINDOW, may_differ=(_STEPS,))
    # The first guidance is the one that a row was trained for.
    by_id: dict[str, Verdict] = {}
    for verdict in judge(claims, methods, measuring):
        by_id.setdefault(verdict.claim.id, verdict)
    return [
        RowVerdict(
            row=row,
            verdicts={condition.name: by_id[_id(condition, row)] for condition in conditions},
            met={
                condition.name: is_met(condition.needs, by_id[_id(condition, row)])
                for condition in conditions
            },
        )
        for row in trained
    ]


def is_met(needs: str, verdict: Verdict) -> str:
    """Whether a tested comparison meets what a condition needs.

    ``not_worse`` is met by a row that is better, and by one whose difference is smaller than the margin at an
    adjusted p below 5 %, be it proven or not that there is one. It is not met by a row that is worse by more
    than the margin, by the whole interval; one that is worse, and maybe by less than that, is open.
    """
    if verdict.outcome == HOLDS:
        return MET
    within = verdict.p_equivalent is not None and verdict.p_equivalent < LEVEL
    if needs == NOT_WORSE and (within or verdict.outcome.startswith(EQUAL)):
        return MET
    found = verdict.difference
    if needs == NOT_WORSE and found is not None and found.high >= -(verdict.margin or 0.0):
        return OPEN
    if verdict.outcome == FAILS or (needs == BETTER and verdict.outcome.startswith(EQUAL)):
        return NOT_MET
    return OPEN


def _claim(condition: Condition, row: str) -> Claim:
    return Claim(
        id=_id(condition, row),
        figure="",
        text=f"{row} is {condition.text}",
        method=row,
        against=condition.against,
        metric="final_score",
        task=", ".join(condition.tasks),
        level=None,
        margin=condition.margin,
    )


def _id(condition: Condition, row: str) -> str:
    return f"{row}/{condition.name}"


def _with_all_seeds(runs: Sequence[Run], trained: Sequence[str]) -> list[Run]:
    """Runs of the rows that are judged, and those of an untrained model, once for every seed of them."""
    seeds = sorted({run.seed for run in runs if run.name in trained})
    return [
        copy
        for run in runs
        for copy in (
            [run]
            if run.name in trained
            else [dataclasses.replace(run, seed=seed, settings={}) for seed in seeds]
        )
    ]
