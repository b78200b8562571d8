"""A table's claims, tested on its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffopd.files.atomic import replacing
from diffopd.files.markdown import markdown_table
from diffopd.report.methods.claims import read_claims
from diffopd.report.methods.measured import QUANTITIES, Measuring
from diffopd.report.methods.methods import group_runs
from diffopd.report.methods.runs import Run
from diffopd.report.methods.untrained import for_every_seed
from diffopd.report.methods.verdict import Verdict, shown_margin
from diffopd.report.methods.verdicts import judge

_WINDOW = 9
"""Rewards in a running mean."""
_READING = (
    "Tested as docs/report.md says: over seeds and prompts, p adjusted by Holm's rule for all tests of this "
    "table; the interval is not adjusted."
)


def write_claims(runs: Sequence[Run], node: Mapping[str, Any], path: Path, *, benchmark: str) -> None:
    """Test claims on the rows of a table, write a table of verdicts, print it.

    A model that is not trained is the same whatever the seed, so its one run stands for every seed.

    Args:
        runs: One for each row and seed, called by the row.
        node: Claims as a file of ``conf/claims`` has them.
        path: Gets the table; nothing is written if no claim is about these rows.
        benchmark: Whose scores are compared.

    Raises:
        ValueError: If a claim makes no sense.
    """
    methods = group_runs(for_every_seed(runs), {}, include_unfinished=True)
    verdicts = judge(read_claims(node), methods, Measuring(benchmark=benchmark, window=_WINDOW))
    shown = [verdict for verdict in verdicts if not verdict.no_runs]
    if not shown:
        return
    text = f"{claims_table(shown)}\n\n{_READING}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text, flush=True)


def claims_table(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as a Markdown table."""
    header = ["claim", "guidance", "margin", "here", "difference", "p (Holm)", "p of equivalence (Holm)"]
    return markdown_table(header, [_row(verdict) for verdict in verdicts], texts=(0, 3))


def _row(verdict: Verdict) -> list[str]:
    digits, found = QUANTITIES[verdict.claim.metric].digits, verdict.difference
    difference = (
        "-"
        if found is None
        else f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
    )
    return [
        verdict.claim.text.rstrip("."),
        "" if verdict.guidance is None else f"{verdict.guidance:g}",
        shown_margin(verdict),
        verdict.outcome,
        difference,
        verdict.shown_p,
        "-" if verdict.p_equivalent is None else f"{verdict.p_equivalent:.3f}",
    ]
