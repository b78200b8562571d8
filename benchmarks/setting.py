"""The distillation experiment that is timed: the embedded model, or another, with random teachers."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from random_teachers import TASKS, composed, save_teachers, save_untrained
from turns import TakeTurns

from diffopd.build.experiment import Experiment, build
from diffopd.files.paths import resolve_path

EMBEDDED_MODEL = "package://assets/mini_sd3"


@dataclass(frozen=True)
class Setting:
    """The `mopd_ode` experiment on a model, with random teachers in ``folder``."""

    folder: Path
    model: tuple[str, ...]
    rows_per_task: int
    repeats: int
    threads: int
    student_guidance: float

    @staticmethod
    def of(arguments: argparse.Namespace, folder: Path) -> Setting:
        """Write teachers, and the model if there is none."""
        path = arguments.model_path or EMBEDDED_MODEL
        if arguments.model_path is None and not Path(resolve_path(path)).is_dir():
            path = str(save_untrained(folder / "pipeline"))
        model = (f"model={arguments.model}", f"model.path={path}")
        save_teachers(folder, list(model), arguments.teacher_guidance)
        return Setting(
            folder, model, arguments.rows_per_task, arguments.repeats, arguments.threads,
            arguments.student_guidance,
        )  # fmt: skip

    def build(self, turns: TakeTurns, *overrides: str) -> Experiment:
        """The experiment, as long as the turns take."""
        run = [
            "+experiment=mopd_ode",
            *self.model,
            *(f"teacher.teachers.{task}.path={self.folder / task}" for task in TASKS),
            *(f"data.tasks.{task}.prompts_per_round={self.rows_per_task}" for task in TASKS),
            f"sampler.guidance_scale={self.student_guidance}",
            "reward=picture_quality",
            "phase.score_every_n_rounds=0",
            "phase.conflict_every_n_rounds=0",
            f"trainer.max_epochs={turns.rounds}",
            f"trainer.num_threads={self.threads}",
            "callbacks=minimal",
            "logger=csv",
            "~report",
            "resume=never",
            f"paths.run={tempfile.mkdtemp(dir=self.folder)}",
            *overrides,
        ]
        experiment = build(composed("train", run))
        experiment.trainer.callbacks.append(turns)
        return experiment
