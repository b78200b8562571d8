"""The report at the end of a distillation: scores of base, teachers and student, samples, reward curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from rich.console import Console

from diffopd.evaluation import (
    Benchmark,
    EvaluationResult,
    conditions_of,
    evaluate,
    held_out_conditions_of,
)
from diffopd.files.atomic import replacing
from diffopd.files.sample_sheet import SHEET, SampleSheet
from diffopd.files.sealed import write_sealed_json
from diffopd.model import PipelineModel
from diffopd.report.run.curve import reward_curve, reward_panels
from diffopd.report.run.examples import Painter, draw_examples
from diffopd.report.run.known_scores import Measured, Scores, Wanted, scores_of_base, scores_of_teachers
from diffopd.report.run.table import FinalTable, Row, gain_kept
from diffopd.report.run.timed import Timed
from diffopd.teacher import TeacherSet

SCORING, PICTURES = "scoring", "pictures and page"
"""What a report does, as its minutes are told."""


@dataclass(frozen=True)
class ReportFiles:
    """What a report wrote.

    Attributes:
        table: The table in Markdown.
        scores: The table in JSON.
        grid: Samples of base, teachers and student, PNG; None if the benchmark has none of the taught tasks.
        curve: Rewards during training, PNG; None if the run logged none.
        final: The table itself.
        sheet: What the samples show.
        panels: task -> SVG of its rewards during training; empty if the run logged none.
    """

    table: Path
    scores: Path
    grid: Path | None
    curve: Path | None
    final: FinalTable
    sheet: SampleSheet | None
    panels: Mapping[str, str]


def report_distillation(
    *,
    model: PipelineModel,
    teachers: TeacherSet,
    student: str,
    student_guidance: float,
    benchmark: Benchmark,
    folder: str | PathLike[str],
    metrics_csv: str | PathLike[str],
    batch_size: int,
    rows_per_task: int = 3,
    prompts_searched: int = 64,
    timed: Timed | None = None,
    other_files: Mapping[str, str | PathLike[str]] | None = None,
    console: Console | None = None,
) -> ReportFiles:
    """Score the student, compare it with base and teachers, write and print everything.

    Base and student are scored at the base's best guidance, at the one the student was trained for, and
    unguided; a share of a gain compares scores at one guidance. Base and teachers are read from their cards
    where these were scored on the same prompts with the same sampler, metric and model; otherwise they are
    scored here, so that all rows of the table compare.

    Args:
        model: Holds teachers and student; its ``guidance_scale`` is the base's best.
        teachers: The teachers of the run.
        student: Name of the student's adapter.
        student_guidance: Guidance the student was trained for.
        benchmark: What to measure; tasks without a metric are only drawn.
        folder: Gets the files.
        metrics_csv: The run's metrics, for the curve.
        batch_size: Images made together.
        rows_per_task: Rows of the grid for each task.
        prompts_searched: Prompts of each task among which these are chosen, from the start of its file.
        timed: Notes how long scoring and pictures took.
        other_files: More to list at the end, e.g. the exported LoRA.
        console: Where to write; standard output when None.
    """
    folder, console, timed = Path(folder), console or Console(), timed or Timed()
    scales = list(dict.fromkeys((student_guidance, model.guidance_scale, 1.0)))

    def score(adapter: str | None, guidance_scale: float, label: str) -> EvaluationResult:
        with timed(SCORING):
            return evaluate(
                model,
                benchmark,
                batch_size=batch_size,
                adapter=adapter,
                guidance_scale=guidance_scale,
                label=label,
                console=console,
            )

    results = [score(student, scale, f"scoring the student, guidance {scale:g}") for scale in scales]
    wanted = Wanted(conditions_of(benchmark, model), held_out_conditions_of(benchmark, model))
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:  # the base's card is asked once for each guidance
            told.add(line)
            print(line, file=console.file, flush=True)

    bases = {scale: scores_of_base(model, benchmark, scale, wanted, score, tell) for scale in scales}
    taught = scores_of_teachers(model, teachers, benchmark, wanted, score, tell)

    table = _table(benchmark.name, bases, taught, teachers, results)
    markdown = _write(folder / "table.md", table.to_markdown())
    scores = folder / "table.json"
    write_sealed_json(scores, table.to_json())  # a report reads it back
    for result in results:
        result.save(folder / f"student_guidance_{result.guidance_scale:g}.json")
    base, painters = Painter("base", None, model.guidance_scale), _teachers(teachers)
    with timed(PICTURES):
        sheet = draw_examples(
            model,
            benchmark,
            base=base,
            teachers=painters,
            students=[Painter("student", student, student_guidance)],
            known={base: bases[model.guidance_scale].scores}
            | {painters[task]: measured.scores for task, measured in taught.items()},
            per_task=rows_per_task,
            searched=prompts_searched,
            batch_size=batch_size,
            console=console,
        )
        grid = None if sheet is None else sheet.save(folder / SHEET)
        curve, panels = _curves(
            metrics_csv,
            bases[student_guidance].scores,
            {task: measured.scores for task, measured in taught.items()},
            results[0],
            benchmark.name,
            folder / "reward_curve.png",
        )

    files = ReportFiles(markdown, scores, grid, curve, table, sheet, panels)
    console.print(table.to_rich())
    if (held_out := table.held_out()) is not None:
        console.print()
        console.print(held_out.to_rich())
    named = {"samples": grid, "reward curve": curve, "table": markdown, **(other_files or {})}
    for name, path in named.items():
        if path is not None:
            print(f"{name + ':':<14} {path}", file=console.file, flush=True)  # rich would break long paths
    return files


def _table(
    name: str,
    bases: Mapping[float, Measured],
    taught: Mapping[str, Measured],
    teachers: TeacherSet,
    student: Sequence[EvaluationResult],
) -> FinalTable:
    columns = list(student[0].tasks)

    def row(label: str, guidance_scale: float, measured: Measured) -> Row:
        scores = {task: measured.scores[task] for task in columns if task in measured.scores}
        return Row(label, guidance_scale, scores, measured.held_out)

    rows = [row("base", scale, measured) for scale, measured in bases.items()]
    rows += [
        row(f"teacher: {task}", teachers.guidance_scales[task], measured) for task, measured in taught.items()
    ]
    rows += [row("student", result.guidance_scale, Measured.of(result)) for result in student]
    own = {task: measured.scores[task] for task, measured in taught.items() if task in measured.scores}
    kept = {
        result.guidance_scale: gain_kept(bases[result.guidance_scale].scores, own, result.estimates)
        for result in student
    }
    return FinalTable(f"{name}: reward by task", rows, kept)


def _teachers(teachers: TeacherSet) -> dict[str, Painter]:
    """Task -> its teacher."""
    return {
        task: Painter(f"{task}\nteacher", teachers.adapter(task), teachers.guidance_scales[task])
        for task in teachers.tasks
    }


def _curves(
    metrics_csv: str | PathLike[str],
    base: Scores,
    taught: Mapping[str, Scores],
    student: EvaluationResult,
    benchmark: str,
    path: Path,
) -> tuple[Path | None, Mapping[str, str]]:
    shown = {
        task: scores
        for task, scores in taught.items()
        if task in base and task in scores and task in student.tasks
    }
    levels = {task: {"base": base[task].mean, "teacher": scores[task].mean} for task, scores in shown.items()}
    final = {task: ("student", student.tasks[task].value.mean) for task in shown}
    note = f"dashed lines, mark: scores on the unseen prompts of {benchmark}, each at its own guidance"
    try:
        curve = reward_curve(metrics_csv, levels, path, final=final, levels_note=note)
        return curve, reward_panels(metrics_csv, levels, final=final)
    except ValueError as error:
        print(f"no reward curve: {error}")
        return None, {}


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
