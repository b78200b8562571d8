"""An evaluation's scores as a table."""

from __future__ import annotations

from rich import box
from rich.table import Table

from diffopd.evaluation import EvaluationResult
from diffopd.report.run.held_out import DIGITS, label_of, marked
from diffopd.teacher import Estimate


def results_table(result: EvaluationResult) -> Table:
    """Each task's score, its tags and parts, and the held-out metrics."""
    title = f"{result.benchmark}, guidance {result.guidance_scale:g}, {result.adapter or 'base'}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("reward", "95 % interval", "images"):
        table.add_column(name, justify="right")
    for task, scores in result.tasks.items():
        table.add_row(f"[bold]{task}", *_cells(scores.value))
        for tag, estimate in scores.tags.items():
            table.add_row(f"  {tag}", *_cells(estimate))
        for part, value in scores.parts.items():
            table.add_row(f"  [dim]part: {part}", f"{value:.3f}")
        table.add_section()
    for metric, held_out in result.held_out_scores.items():
        number = "" if held_out.n is None else str(held_out.n)
        label = marked(label_of(metric), held_out.better)
        table.add_row(f"[bold]not trained on: {label}", f"{held_out.value:.{DIGITS}f}", "", number)
    return table


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    return f"{estimate.mean:.3f}", estimate.interval_text, str(estimate.n)
