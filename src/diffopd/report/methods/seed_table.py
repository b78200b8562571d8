"""The seeds that claims need, as a page written before the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffopd.files.markdown import markdown_table
from diffopd.report.methods.measured import QUANTITIES
from diffopd.report.methods.seeds_needed import MOST, ErrorParts, SeedsNeeded, seeds_needed
from diffopd.report.methods.verdict import Verdict, shown_margin

Way = Callable[[str, ErrorParts], ErrorParts]
"""A claim's metric and the parts of its error -> the parts if it were measured in another way."""


def seed_table(verdicts: Sequence[Verdict], ways: Sequence[tuple[str, Way]]) -> str:
    """A Markdown table of the seeds that each claim needs.

    Args:
        verdicts: Judged together; those without a test are left out.
        ways: Title of a column -> how the claim is measured in it.
    """
    tested = [verdict for verdict in verdicts if verdict.parts is not None and verdict.margin]
    header = [
        *(
            "claim",
            "guidance",
            "margin",
            "deviation of a run",
            "of that, images",
            "prompts",
            "difference seen",
        ),
        *(f"{title}: {what}" for title, _ in ways for what in ("difference", "equivalence", "seen")),
    ]
    rows = [_row(verdict, ways, num_tests=len(tested)) for verdict in tested]
    return markdown_table(header, rows, texts=(0,))


def needed_in(verdict: Verdict, way: Way, *, num_tests: int) -> SeedsNeeded:
    """Seeds that a verdict with a test and a margin needs if it is measured in another way."""
    assert verdict.parts is not None
    assert verdict.margin
    assert verdict.difference is not None
    parts = way(verdict.claim.metric, verdict.parts)
    return seeds_needed(parts, verdict.margin, seen=abs(verdict.difference.mean), num_tests=num_tests)


def _row(verdict: Verdict, ways: Sequence[tuple[str, Way]], *, num_tests: int) -> list[str]:
    assert verdict.parts is not None
    assert verdict.difference is not None
    parts = verdict.parts
    digits = QUANTITIES[verdict.claim.metric].digits + 1
    images = f"{min(parts.images / parts.seeds, 1.0):.0%}" if parts.images else "-"
    numbers = [needed_in(verdict, way, num_tests=num_tests) for _, way in ways]
    return [
        f"`{verdict.claim.id}`",
        "" if verdict.guidance is None else f"{verdict.guidance:g}",
        shown_margin(verdict),
        f"{(parts.seeds / 2) ** 0.5:.{digits}f}",
        images,
        f"{parts.prompts**0.5:.{digits}f}" if parts.prompts_freedom < float("inf") else "-",
        f"{verdict.difference.mean:+.{digits - 1}f}",
        *(
            _number(number)
            for found in numbers
            for number in (found.difference, found.equivalence, found.seen)
        ),
    ]


def _number(seeds: int | None) -> str:
    return f"> {MOST:,}" if seeds is None else f"{seeds}"
