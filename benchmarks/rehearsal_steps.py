"""What is rehearsed, step by step: a command each, what it needs, what it must leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from random_teachers import TASKS
from rehearsal_prompts import PROMPT_FILES

HERE = Path(__file__).parent
FORMATS = ("peft", "diffusers", "comfyui", "merged")
IMAGE_SIZE, NUM_STEPS, TEXT_LENGTH, GUIDANCE = 64, 2, 16, 4.5
ROUNDS = {"sd3_5_medium": 3, "tiny": 30}
"""Of the training; it is killed after the first checkpoint, and small rounds are over in no time."""
PYTHON = "python"
"""Stands for this interpreter in commands, which are written down."""


class NotLeftError(RuntimeError):
    """A command that ended well without what it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of the table.

    Attributes:
        name: In the state file, and for ``needs``.
        title: In the table.
        command: Its arguments.
        needs: Steps that must have gone well before.
        leaves: Files and folders that must be there afterwards.
        clears: Files and folders that are removed before it begins.
        accepted: Exit code -> what it means; others are a failure.
        kill_when: When the process is killed; its own end is then a failure.
        check: Looks at what is left, given the time of the start and the output; says what to note.
    """

    name: str
    title: str
    command: Sequence[str]
    needs: Sequence[str] = ()
    leaves: Sequence[Path] = ()
    clears: Sequence[Path] = ()
    accepted: Mapping[int, str] = field(default_factory=lambda: {0: ""})
    kill_when: Callable[[], bool] | None = None
    check: Callable[[float, str], str] | None = None


@dataclass(frozen=True)
class Walk:
    """Where and with what a rehearsal is made.

    Attributes:
        model: A size's name.
        folder: Everything made lies in it.
        with_t5: Whether the third text encoder is part of it.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    model: str
    folder: Path
    with_t5: bool
    device: str

    @property
    def runs(self) -> Path:
        """Folder of the commands' own folders."""
        return self.folder / "runs"

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.runs / "student" / "walk"

    def steps(self) -> list[Step]:
        """All of them, in order."""
        exports = [self.export(name) for name in FORMATS]
        training = [self.build(), self.doctor(), self.killed(), self.resumed()]
        return [*training, self.sample(), self.evaluate(), *exports, self.stock_lora(), self.stock_merged()]

    def build(self) -> Step:
        """The pipeline, the teachers and the prompts."""
        made = [self.folder / name for name in ("pipeline", "teachers", "prompts")]
        program = [
            PYTHON,
            str(HERE / "rehearsal_build.py"),
            "--model",
            self.model,
            "--folder",
            str(self.folder),
        ]
        command = [*program, "--with-t5"] if self.with_t5 else program
        return Step(
            name="build", title="build pipeline and teachers", command=command, leaves=made, clears=made
        )

    def doctor(self) -> Step:
        """Warnings are no failure: few rounds and small pictures are worth one."""
        return Step(
            name="doctor",
            title="doctor",
            command=_module("doctor", *self._training()),
            needs=["build"],
            accepted={0: "nothing to object to", 1: "with warnings"},
        )

    def killed(self) -> Step:
        """A training that is killed as soon as its first checkpoint is there."""
        return Step(
            name="killed",
            title="train +experiment=mopd_ode, kill -9 after the first checkpoint",
            command=_module("train", *self._training()),
            needs=["build"],
            clears=[self.run],
            kill_when=lambda: bool(checkpoints(self.run)),
            check=lambda started, output: f"killed after {checkpoints(self.run)[-1].name}",
        )

    def resumed(self) -> Step:
        """The same command once more."""
        return Step(
            name="resumed",
            title="the same command, resumed",
            command=_module("train", *self._training()),
            needs=["killed"],
            leaves=[self.run / name for name in ("finished.json", "adapter", "lora")],
            check=self._from_where,
        )

    def _from_where(self, started: float, output: str) -> str:
        """It was resumed if the killed training's checkpoints are still those that it made."""
        kept = [each for each in checkpoints(self.run) if each.stat().st_mtime < started]
        if not kept:
            raise NotLeftError("no checkpoint of the killed training is left: it began anew")
        return f"from {kept[-1].name} to {checkpoints(self.run)[-1].name}"

    def sample(self) -> Step:
        """Pictures of the student."""
        return Step(
            name="sample",
            title="sample, 2 pictures",
            command=_module(
                "sample",
                *self._with_student("pictures"),
                "prompt=a sign that says OPEN",
                "num_images=2",
                f"sampler.num_steps={NUM_STEPS}",
            ),
            needs=["resumed"],
            leaves=[self.runs / "pictures" / "walk" / "sheet.png"],
            clears=[self.runs / "pictures"],
        )

    def evaluate(self) -> Step:
        """Pictures of the student, scored."""
        return Step(
            name="evaluate",
            title="evaluate benchmark=ocr, 2 pictures",
            command=_module(
                "evaluate",
                *self._with_student("scores"),
                "benchmark=ocr",
                f"benchmark.path={self.folder / 'prompts' / 'ocr.txt'}",
                "benchmark.num_prompts=2",
                f"benchmark.sampler.num_steps={NUM_STEPS}",
                "batch_size=2",
            ),
            needs=["resumed"],
            leaves=[self.runs / "scores" / "walk"],
            clears=[self.runs / "scores"],
        )

    def export(self, name: str) -> Step:
        """One format; few rounds change weights by less than bf16 can hold, so merged ones may differ."""
        to = self.folder / "exports" / name
        settings = [f"format={name}", *(["tolerance=1"] if name == "merged" else [])]
        return Step(
            name=f"export_{name}",
            title=f"export {' '.join(settings)}",
            command=_module("export", f"run={self.run}", f"to={to}", f"device={self.device}", *settings),
            needs=["resumed"],
            leaves=[to / "README.md"],
            clears=[to],
            check=lambda started, output: _last_after("read back: ", output),
        )

    def stock_lora(self) -> Step:
        """The library alone loads the base and the exported LoRA."""
        lora = ["--lora", str(self.folder / "exports" / "diffusers")]
        return self._stock("the LoRA", "diffusers", self.folder / "pipeline", *lora)

    def stock_merged(self) -> Step:
        """The library alone loads the merged pipeline."""
        return self._stock("the merged pipeline", "merged", self.folder / "exports" / "merged")

    def _stock(self, what: str, name: str, pipeline: Path, *arguments: str) -> Step:
        picture = self.folder / "stock" / f"{name}.png"
        given = ["--pipeline", str(pipeline), *arguments, "--output", str(picture)]
        shared = ["--size", str(IMAGE_SIZE), "--steps", str(NUM_STEPS), "--device", self.device]
        return Step(
            name=f"stock_{name}",
            title=f"stock diffusers loads {what} and draws, in a process without diffopd",
            command=[PYTHON, str(HERE / "rehearsal_stock.py"), *given, *shared],
            needs=[f"export_{name}"],
            leaves=[picture],
            clears=[picture],
            check=lambda started, output: _last_after("note: ", output),
        )

    def _with_student(self, name: str) -> list[str]:
        places = [f"paths.root={self.runs}", f"name={name}", "run_id=walk"]
        return [*self._model(), f"adapter={self.run / 'adapter'}", f"device={self.device}", *places]

    def _model(self) -> list[str]:
        return [
            "model=sd3_5_medium",
            f"model.path={self.folder / 'pipeline'}",
            f"model.image_size={IMAGE_SIZE}",
            f"model.text_length={TEXT_LENGTH if self.with_t5 else 0}",
        ]

    def _training(self) -> list[str]:
        """The recipe of docs/published_teachers.md with few prompts, steps and rounds, and small pictures.

        The learning rate is larger and the average moves every round, so that few rounds change something.
        """
        settings = [
            "+experiment=mopd_ode",
            *self._model(),
            "adapter=lora",
            "model.gradient_checkpointing=true",
            f"model.prompt_cache={self.runs / 'prompt_cache'}",
            f"sampler.num_steps={NUM_STEPS}",
            f"sampler.guidance_scale={GUIDANCE}",
            "optimizer.lr=3e-3",
            "phase.ema.update_interval=1",
            "phase.score_every_n_rounds=0",
            "phase.conflict_every_n_rounds=0",
            f"trainer.accelerator={'gpu' if self.device == 'cuda' else self.device}",
            f"trainer.max_epochs={ROUNDS[self.model]}",
            "callbacks.round_checkpoint.every_n_rounds=1",
            f"callbacks.round_checkpoint.keep_last={ROUNDS[self.model]}",
            *(f"paths.root={self.runs}", "name=student", "run_id=walk"),
            *("logger=csv", "~report", "~benchmark"),
        ]
        for task in TASKS:
            prompts = self.folder / "prompts" / f"{task}{PROMPT_FILES[task].suffix}"
            settings += [
                f"teacher.teachers.{task}.path={self.folder / 'teachers' / task}",
                f"teacher.teachers.{task}.guidance_scale={GUIDANCE}",
                f"data.tasks.{task}.path={prompts}",
                f"data.tasks.{task}.prompts_per_round=1",
            ]
        return settings


def checkpoints(run: Path) -> list[Path]:
    """A training's whole checkpoints; those that are being written have other names."""
    return sorted(each for each in run.glob("checkpoints/round_*") if re.fullmatch(r"round_\d+", each.name))


def _module(name: str, *overrides: str) -> list[str]:
    return [PYTHON, "-m", f"diffopd.{name}", *overrides]


def _last_after(start: str, output: str) -> str:
    """What follows ``start`` on the last line that begins with it."""
    return next(
        (line.removeprefix(start) for line in reversed(output.splitlines()) if line.startswith(start)), ""
    )
