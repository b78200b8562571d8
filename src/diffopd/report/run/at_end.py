"""What each phase reports when its training ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from diffopd.callbacks import Samples, exported_adapter
from diffopd.evaluation import Benchmark, evaluate
from diffopd.files.sample_sheet import SHEET, SampleSheet
from diffopd.phase import DistillPhase, ScoredPhase
from diffopd.report.run.curve import reward_curve, reward_panels
from diffopd.report.run.distillation import PICTURES, SCORING, report_distillation
from diffopd.report.run.examples import Painter, draw_examples
from diffopd.report.run.known_scores import Measured, base_held_out, base_scores, comparable, unlike
from diffopd.report.run.page import PageTable, Pictures, Plot
from diffopd.report.run.run_files import RunFiles
from diffopd.report.run.strip import SAMPLES, STRIP, quarters, save_strip
from diffopd.report.run.table import FinalTable, Row
from diffopd.report.run.timed import Timed
from diffopd.reward.failed_sample import failures_saved
from diffopd.run.metrics_csv import METRICS
from diffopd.teacher import TeacherCard, TeacherSet


class DistillationReport:
    """Table of base, teachers and student; samples side by side and over rounds; reward curve; a page.

    Args:
        batch_size: Images made together.
        rows_per_task: Rows of the sample grid for each task.
        prompts_searched: Prompts of each task among which these are chosen, from the start of its file.

    Attributes:
        groups: Config groups that its phase must be built from.
        compares_teachers: That the phase's teachers must be a set with names and scores.
    """

    groups: ClassVar[tuple[str, ...]] = ("model", "sampler", "teacher")
    compares_teachers: ClassVar[bool] = True

    def __init__(self, *, batch_size: int, rows_per_task: int, prompts_searched: int) -> None:
        self.batch_size, self.rows_per_task = batch_size, rows_per_task
        self.prompts_searched = prompts_searched

    def check(self, parts: Mapping[str, Any]) -> None:
        """Check what the phase will be built from, before anything is trained.

        Args:
            parts: Config group -> what it built.

        Raises:
            ValueError: If there is no set of teachers, with which the table compares the student.
        """
        if not isinstance(teacher := parts.get("teacher"), TeacherSet):
            raise ValueError(
                f"report: the table compares a student with its teachers, and {type(teacher).__name__} "
                "is no set of teachers; leave the report out with ~report, and score with diffopd evaluate"
            )

    def __call__(self, phase: DistillPhase, benchmark: Benchmark, run: RunFiles) -> None:
        """Score the student's exported adapter, write the report and its page."""
        assert isinstance(phase.teacher, TeacherSet)
        timed, tasks = Timed(), phase.teacher.tasks
        scale = float(phase.loss_guidance)
        with failures_saved(run.folder, "report"):
            files = report_distillation(
                model=phase.model,
                teachers=phase.teacher,
                student=exported_adapter(phase),
                student_guidance=scale,
                benchmark=benchmark,
                folder=run.folder / "report",
                metrics_csv=run.folder / METRICS,
                batch_size=self.batch_size,
                rows_per_task=self.rows_per_task,
                prompts_searched=self.prompts_searched,
                timed=timed,
                other_files=_others(phase, run),
            )
        with timed(PICTURES):
            shown = [_side_by_side(files.sheet, "Base, teachers, student")] if files.sheet else []
            shown += _over_rounds(phase, run)
            plots = [
                Plot.of_svg(svg, f"Reward of {task} against rounds") for task, svg in files.panels.items()
            ]
        lead = [
            f"One student learned from {_teachers(tasks)}. {_READ_FIRST}",
            _gains(files.final.gain_kept.get(scale, {}), tasks),
        ]
        _write_page(run, timed, table=files.final, lead=lead, plots=plots, pictures=shown, own="student")


class TeacherReport:
    """Scores on every task, and the card that makes the adapter a teacher.

    Args:
        batch_size: Images made together.
        name: The teacher's name.
        rows_per_task: Rows of the page's samples for each task it was trained on.
        prompts_searched: Prompts of each task among which these are chosen, from the start of its file.

    Attributes:
        groups: Config groups that its phase must be built from.
    """

    groups: ClassVar[tuple[str, ...]] = ("model", "sampler", "adapter")

    def __init__(self, *, batch_size: int, name: str, rows_per_task: int, prompts_searched: int) -> None:
        self.batch_size, self.name = batch_size, name
        self.rows_per_task, self.prompts_searched = rows_per_task, prompts_searched

    def __call__(self, phase: ScoredPhase, benchmark: Benchmark, run: RunFiles) -> None:
        """Score the exported adapter at its own guidance, print beside the base, write card and page."""
        scale, timed = float(phase.loss_guidance), Timed()
        best = float(phase.model.guidance_scale)
        with failures_saved(run.folder, "report"), timed(SCORING):
            result = evaluate(
                phase.model,
                benchmark,
                batch_size=self.batch_size,
                adapter=exported_adapter(phase),
                guidance_scale=scale,
                label=f"scoring {self.name}",
            )
        result.save(run.folder / "report" / f"{benchmark.name}.json")
        trained = tuple(cast(Any, phase.trainer).datamodule.tasks)
        card = TeacherCard(
            name=self.name,
            task="+".join(trained),
            guidance_scale=scale,
            base=phase.model.identity,
            rank=getattr(phase.adapter, "rank", None),  # whole weights have none
            alpha=getattr(phase.adapter, "alpha", None),
            scores={benchmark.name: result.scores},
            recipe=run.recipe,
            held_out={benchmark.name: result.held_out_scores},
        )
        path = card.save(run.folder / "adapter")
        bases: dict[float, Measured] = {}
        for base_scale in dict.fromkeys((scale, best)):
            known = base_scores(phase.model.path, benchmark.name, base_scale)
            if known and (why := unlike(known, result.conditions, base=phase.model.path)):
                print(f"the base's card does not fit, so it is not shown (here and there): {'; '.join(why)}")
                known = {}
            held_out = base_held_out(phase.model.path, benchmark.name, base_scale) if known else {}
            fits = comparable(held_out, result.held_out_conditions, whose="the base's card", tell=print)
            bases[base_scale] = Measured(known, fits)
        of_base = bases[scale].scores
        levels = {task: {"base": of_base[task].mean} for task in result.estimates if task in of_base}
        final = {task: (self.name, estimate.mean) for task, estimate in result.estimates.items()}
        with timed(PICTURES):
            curve = reward_curve(
                run.folder / METRICS,
                levels,
                run.folder / "adapter" / "reward_curve.png",
                final=final,
                levels_note=f"dotted, mark: scores on {benchmark.name}'s unseen prompts, guidance {scale:g}",
            )
            panels = reward_panels(run.folder / METRICS, levels, final=final)
            base = Painter("base", None, best)
            teacher = Painter(self.name, result.adapter, scale)
            with failures_saved(run.folder, "report"):
                sheet = draw_examples(
                    phase.model,
                    benchmark,
                    base=base,
                    teachers=dict.fromkeys(trained, teacher),
                    students=[],
                    known={base: bases[best].scores, teacher: result.scores},
                    per_task=self.rows_per_task,
                    searched=self.prompts_searched,
                    batch_size=self.batch_size,
                )
            samples = {} if sheet is None else {"samples": sheet.save(run.folder / "report" / SHEET)}
        rows = [
            Row("base", base_scale, known.scores, known.held_out)
            for base_scale, known in bases.items()
            if known.scores
        ]
        rows.append(Row(self.name, scale, result.scores, result.held_out_scores))
        table = FinalTable(f"{benchmark.name}: reward by task", rows, {})
        print(table.to_markdown())
        for label, file in {
            "card": path,
            "reward curve": curve,
            **samples,
            **_others(phase, run),
        }.items():
            print(f"{label + ':':<14} {file}", flush=True)
        with timed(PICTURES):
            shown = [_side_by_side(sheet, "Base and teacher")] if sheet else []
            shown += _over_rounds(phase, run)
            plots = [Plot.of_svg(svg, f"Reward of {task} against rounds") for task, svg in panels.items()]
        lead = [f"One model learned {_several(trained)} by its rewards. {_READ_FIRST}"]
        _write_page(run, timed, table=table, lead=lead, plots=plots, pictures=shown, own=self.name)


_READ_FIRST = (
    "Scores are on prompts that training does not use; pictures of one row start from the same noise."
)


def _several(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _teachers(tasks: Sequence[str]) -> str:
    return f"the {_several(tasks)} teacher{'s' if len(tasks) > 1 else ''}"


def _gains(kept: Mapping[str, float], tasks: Sequence[str]) -> str:
    """What the student has of each teacher's gain, in a sentence."""
    told = [f"{kept[task]:.0%} of the {task} teacher's" for task in tasks if task in kept]
    silent = [task for task in tasks if task not in kept]
    parts = [f"Gain over the base that the student keeps: {', '.join(told)}."] if told else []
    if silent:
        parts.append(f"Not told of {_several(silent)}, whose teacher is not clearly better than the base.")
    return " ".join(parts)


def _side_by_side(sheet: SampleSheet, heading: str) -> Pictures:
    caption = (
        f"Under each picture its score on the row's task. {sheet.rule} The base is at its best guidance, the "
        "others are at the guidance they were trained for."
    )
    return Pictures.of(sheet, heading=heading, caption=caption)


def _over_rounds(phase: Any, run: RunFiles) -> list[Pictures]:
    """The strip of samples over rounds, if the run drew some."""
    sheet = quarters(_samples_folder(phase, run))
    if sheet is None:
        return []
    return [Pictures.of(sheet, heading="Pictures while it trained", caption=sheet.rule)]


def _write_page(
    run: RunFiles,
    timed: Timed,
    *,
    table: FinalTable,
    lead: Sequence[str],
    plots: Sequence[Plot],
    pictures: Sequence[Pictures],
    own: str,
) -> None:
    """The page of a run that was scored; rows named ``own`` are those of what was trained."""
    run.write_page(
        timed,
        lead=lead,
        tables=PageTable.of(table, own=own),
        plots=plots,
        plots_heading="Rewards while it trained",
        plots_note="Points: mean reward of a round's images of training prompts. Blue line: their running "
        "mean. Other lines: scores in the table above. Diamond: final score there of the trained model. "
        "Points and scores are of different prompts, so small differences mean little.",
        pictures=pictures,
    )


def _samples_folder(phase: Any, run: RunFiles) -> Path:
    """Where the run's samples over rounds are."""
    folders = [callback.folder for callback in phase.trainer.callbacks if isinstance(callback, Samples)]
    return folders[0] if folders else run.folder / SAMPLES


def _others(phase: Any, run: RunFiles) -> dict[str, Path]:
    """Files to list: the samples over rounds, drawn now if there are any, and the run's."""
    strip = save_strip(_samples_folder(phase, run), run.folder / "report" / STRIP)
    return ({} if strip is None else {"over rounds": strip}) | dict(run.others)
