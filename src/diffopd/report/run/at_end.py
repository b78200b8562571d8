"""What each phase reports when its training ends."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from diffopd.callbacks import Samples, exported_adapter
from diffopd.evaluation import Benchmark, evaluate
from diffopd.files.names import CONFIG
from diffopd.phase import DistillPhase, RewardPhase
from diffopd.report.run.curve import reward_curve
from diffopd.report.run.distillation import report_distillation
from diffopd.report.run.known_scores import base_scores, unlike
from diffopd.report.run.strip import SAMPLES, STRIP, save_strip
from diffopd.report.run.table import FinalTable, Row
from diffopd.reward.failed_sample import failures_saved
from diffopd.run.metrics_csv import METRICS, read_rows
from diffopd.teacher import Recipe, Score, TeacherCard, TeacherSet


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Where a run's files are.

    Attributes:
        folder: The run's folder.
        command: The command that made it.
        seed: Its seed.
    """

    folder: Path
    command: str
    seed: int

    @property
    def others(self) -> Mapping[str, Path]:
        """Files to list beside the report's own."""
        return {"config": self.folder / CONFIG, "LoRA": self.folder / "lora"}

    def recipe(self) -> Recipe:
        """How the run was made and what training cost, including what was done before a resume."""
        lines = read_rows(self.folder / METRICS)

        def total(metric: str) -> float:
            return sum(float(line[metric]) for line in lines if line.get(metric))

        return Recipe(
            command=self.command,
            seed=self.seed,
            minutes=round(total("train/time/seconds_per_round") / 60, 1),
            images=round(total("train/cost/images")),
            reward_calls=round(total("train/cost/reward_calls")),
            commit=_commit(),
        )


class DistillationReport:
    """Table of base, teachers and student; samples side by side and over rounds; reward curve.

    Args:
        batch_size: Images made together.
        rows_per_task: Rows of the sample grid for each task.

    Attributes:
        groups: Config groups that its phase must be built from.
        compares_teachers: That the phase's teachers must be a set with names and scores.
    """

    groups: ClassVar[tuple[str, ...]] = ("model", "sampler", "teacher")
    compares_teachers: ClassVar[bool] = True

    def __init__(self, *, batch_size: int, rows_per_task: int) -> None:
        self.batch_size, self.rows_per_task = batch_size, rows_per_task

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
        """Score the student's exported adapter and write the report."""
        assert isinstance(phase.teacher, TeacherSet)
        with failures_saved(run.folder, "report"):
            report_distillation(
                model=phase.model,
                teachers=phase.teacher,
                student=exported_adapter(phase),
                student_guidance=float(phase.sampler.guidance_scale),
                benchmark=benchmark,
                folder=run.folder / "report",
                metrics_csv=run.folder / METRICS,
                batch_size=self.batch_size,
                rows_per_task=self.rows_per_task,
                other_files=_others(phase, run),
            )


class TeacherReport:
    """Scores on every task, and the card that makes the adapter a teacher.

    Args:
        batch_size: Images made together.
        name: The teacher's name.

    Attributes:
        groups: Config groups that its phase must be built from.
    """

    groups: ClassVar[tuple[str, ...]] = ("model", "sampler", "adapter")

    def __init__(self, *, batch_size: int, name: str) -> None:
        self.batch_size, self.name = batch_size, name

    def __call__(self, phase: RewardPhase, benchmark: Benchmark, run: RunFiles) -> None:
        """Score the exported adapter at its own guidance, print beside the base, write ``card.json``."""
        scale = float(phase.sampler.guidance_scale)
        with failures_saved(run.folder, "report"):
            result = evaluate(
                phase.model,
                benchmark,
                batch_size=self.batch_size,
                adapter=exported_adapter(phase),
                guidance_scale=scale,
                label=f"scoring {self.name}",
            )
        result.save(run.folder / "report" / f"{benchmark.name}.json")
        card = TeacherCard(
            name=self.name,
            task="+".join(cast(Any, phase.trainer).datamodule.tasks),  # the tasks it was trained on
            guidance_scale=scale,
            base=phase.model.identity,
            rank=getattr(phase.adapter, "rank", None),  # whole weights have none
            alpha=getattr(phase.adapter, "alpha", None),
            scores={benchmark.name: result.scores},
            recipe=run.recipe(),
        )
        path = card.save(run.folder / "adapter")
        bases: dict[float, Mapping[str, Score]] = {}
        for base_scale in dict.fromkeys((scale, float(phase.model.guidance_scale))):
            known = base_scores(phase.model.path, benchmark.name, base_scale)
            if known and (why := unlike(known, result.conditions)):
                print(f"the base's card does not fit, so it is not shown (here and there): {'; '.join(why)}")
                known = {}
            bases[base_scale] = known
        levels = {
            task: ({"base": bases[scale][task].mean} if task in bases[scale] else {})
            | {"teacher": estimate.mean}
            for task, estimate in result.estimates.items()
        }
        curve = reward_curve(
            run.folder / METRICS,
            levels,
            run.folder / "adapter" / "reward_curve.png",
            levels_note=f"dashed: scores on the unseen prompts of {benchmark.name} at guidance {scale:g}",
        )
        rows = [Row("base", base_scale, known) for base_scale, known in bases.items() if known]
        rows.append(Row(self.name, scale, result.scores))
        print(FinalTable(f"{benchmark.name}: reward by task", rows, {}).to_markdown())
        for label, file in {
            "card": path,
            "reward curve": curve,
            **_others(phase, run),
        }.items():
            print(f"{label + ':':<14} {file}", flush=True)


def _others(phase: Any, run: RunFiles) -> dict[str, Path]:
    """Files to list: the samples over rounds, drawn now if there are any, and the run's."""
    folders = [callback.folder for callback in phase.trainer.callbacks if isinstance(callback, Samples)]
    strip = save_strip(folders[0] if folders else run.folder / SAMPLES, run.folder / "report" / STRIP)
    return ({} if strip is None else {"over rounds": strip}) | dict(run.others)


def _commit() -> str:
    """Commit of the checkout the code runs from, or ``unknown``."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
