"""What is rehearsed, step by step: a command each, what it needs, what it must leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from random_teachers import TASKS

HERE = Path(__file__).parent
FORMATS = ("peft", "diffusers", "comfyui", "merged")
IMAGE_SIZE, NUM_STEPS, TEXT_LENGTH, GUIDANCE = 64, 2, 16, 4.5
ROUNDS = {"sd3_5_medium": 3, "tiny": 30}
"""Of the training; it is killed after the first checkpoint, and small rounds are over in no time."""
PYTHON = "python"
"""Stands for this interpreter in commands, which are written down."""


class NotLeftError(RuntimeError):
    """A command that ended well without what it was asked for."""


@dataclass(frozen=True)
class Step:
    """One line of the table.

    Attributes:
        name: In the state file, and for ``needs``.
        title: In the table.
        command: Its arguments.
        needs: Steps that must have gone well before.
        leaves: Files that must be there afterwards.
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
    accepted: dict[int, str] = field(default_factory=lambda: {0: ""})
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
    def run(self) -> Path:
        """Folder of the training."""
        return self.folder / "runs" / "student" / "walk"

    def steps(self) -> list[Step]:
        """All of them, in order."""
        return [
            self.build(),
            self.doctor(),
            self.killed(),
            self.resumed(),
            *self.uses(),
            *self.exports(),
            *self.stock(),
        ]

    def build(self) -> Step:
        """The pipeline, the teachers and the prompts."""
        made = [self.folder / name for name in ("pipeline", "teachers", "prompts")]
        flag = ["--with-t5"] if self.with_t5 else []
        program = [
            str(HERE / "rehearsal_build.py"),
            "--model",
            self.model,
            "--folder",
            str(self.folder),
            *flag,
        ]
        return Step("build", "build pipeline, teachers", (PYTHON, *program), leaves=made, clears=made)

    def doctor(self) -> Step:
        """Warnings are no failure: a rehearsal asks for few rounds, of which the doctor warns."""
        return Step(
            "doctor", "doctor", self._module("doctor", *self._training()), needs=["build"],
            accepted={0: "nothing to object to", 1: "with warnings"},
        )  # fmt: skip

    def killed(self) -> Step:
        """A training that is killed as soon as its first checkpoint is there."""
        return Step(
            "killed", "train +experiment=mopd_ode, kill -9 after the first checkpoint",
            self._module("train", *self._training()), needs=["build"], clears=[self.run],
            kill_when=lambda: bool(checkpoints(self.run)),
            check=lambda started, output: f"killed after {checkpoints(self.run)[-1].name}",
        )  # fmt: skip

    def resumed(self) -> Step:
        """The same command once more."""
        return Step(
            "resumed", "the same command, resumed", self._module("train", *self._training()), needs=["killed"],
            leaves=[self.run / "finished.json", self.run / "adapter", self.run / "lora"], check=self._from_where,
        )  # fmt: skip

    def _from_where(self, started: float, output: str) -> str:
        """It went on if the killed training's checkpoints are still those that it made."""
        kept = [each for each in checkpoints(self.run) if each.stat().st_mtime < started]
        if not kept:
            raise NotLeftError("no checkpoint of the killed training is left: it began anew")
        return f"from {kept[-1].name} to {checkpoints(self.run)[-1].name}"

    def uses(self) -> list[Step]:
        """Pictures of the student, and scores."""
        adapter = f"adapter={self.run / 'adapter'}"
        pictures, scores = (self.folder / "runs" / name for name in ("pictures", "scores"))
        sample = [
            "prompt=a sign that says OPEN", "num_images=2", f"sampler.num_steps={NUM_STEPS}",
            "name=pictures", "run_id=walk",
        ]  # fmt: skip
        evaluate = [
            "benchmark=ocr", f"benchmark.path={self.folder / 'prompts' / 'ocr.txt'}", "benchmark.num_prompts=2",
            f"benchmark.sampler.num_steps={NUM_STEPS}", "batch_size=2", "name=scores", "run_id=walk",
        ]  # fmt: skip
        shared = [*self._model(), f"device={self.device}", f"paths.root={self.folder / 'runs'}"]
        return [
            Step(
                "sample", "sample, 2 pictures", self._module("sample", *shared, adapter, *sample),
                needs=["resumed"], leaves=[pictures / "walk" / "sheet.png"], clears=[pictures],
            ),
            Step(
                "evaluate", "evaluate benchmark=ocr, 2 pictures",
                self._module("evaluate", *shared, adapter, *evaluate),
                needs=["resumed"], leaves=[scores / "walk"], clears=[scores],
            ),
        ]  # fmt: skip

    def exports(self) -> list[Step]:
        """Every format; few rounds change weights by less than bf16 can hold, so merged ones may differ."""
        steps = []
        for name in FORMATS:
            to = self.folder / "exports" / name
            command = self._module(
                "export", f"run={self.run}", f"format={name}", f"to={to}", f"device={self.device}"
            )
            tolerance = ["tolerance=1"] if name == "merged" else []
            title = " ".join([f"export format={name}", *tolerance])
            step = Step(
                f"export_{name}", title, (*command, *tolerance),
                needs=["resumed"], leaves=[to / "README.md"], clears=[to], check=_read_back,
            )  # fmt: skip
            steps.append(step)
        return steps

    def stock(self) -> list[Step]:
        """The library alone, in a process that knows nothing of this package."""
        exports, pictures = self.folder / "exports", self.folder / "stock"
        ways = {
            "diffusers": (
                "LoRA",
                ["--pipeline", f"{self.folder / 'pipeline'}", "--lora", f"{exports / 'diffusers'}"],
            ),
            "merged": ("merged pipeline", ["--pipeline", f"{exports / 'merged'}"]),
        }
        shared = ["--size", str(IMAGE_SIZE), "--steps", str(NUM_STEPS), "--device", self.device]
        return [
            Step(
                f"stock_{name}", f"stock diffusers loads the {what} and draws",
                (PYTHON, str(HERE / "rehearsal_stock.py"), *given, *shared, "--output", f"{pictures / name}.png"),
                needs=[f"export_{name}"], leaves=[pictures / f"{name}.png"], clears=[pictures / f"{name}.png"],
                check=_noted,
            )
            for name, (what, given) in ways.items()
        ]  # fmt: skip

    def _module(self, name: str, *overrides: str) -> tuple[str, ...]:
        return (PYTHON, "-m", f"diffopd.{name}", *overrides)

    def _model(self) -> list[str]:
        return [
            "model=sd3_5_medium", f"model.path={self.folder / 'pipeline'}", f"model.image_size={IMAGE_SIZE}",
            f"model.text_length={TEXT_LENGTH if self.with_t5 else 0}",
        ]  # fmt: skip

    def _training(self) -> list[str]:
        """The recipe of docs/published_teachers.md with few prompts, steps and rounds, and small pictures.

        The learning rate is larger and the average moves every round, so that few rounds change something.
        """
        settings = [
            "+experiment=mopd_ode", "name=student", "run_id=walk", f"paths.root={self.folder / 'runs'}",
            *self._model(), "adapter=lora", "model.gradient_checkpointing=true",
            f"model.prompt_cache={self.folder / 'runs' / 'prompt_cache'}",
            f"sampler.num_steps={NUM_STEPS}", f"sampler.guidance_scale={GUIDANCE}",
            "optimizer.lr=3e-3", "phase.ema.update_interval=1", "phase.score_every_n_rounds=0", "phase.conflict_every_n_rounds=0",
            f"trainer.max_epochs={ROUNDS[self.model]}", "callbacks.round_checkpoint.every_n_rounds=1",
            f"callbacks.round_checkpoint.keep_last={ROUNDS[self.model]}", "logger=csv", "~report", "~benchmark",
            f"trainer.accelerator={'gpu' if self.device == 'cuda' else self.device}",
        ]  # fmt: skip
        for task in TASKS:
            prompts = self.folder / "prompts" / (f"{task}.jsonl" if task == "composition" else f"{task}.txt")
            settings += [
                f"teacher.teachers.{task}.path={self.folder / 'teachers' / task}",
                f"teacher.teachers.{task}.guidance_scale={GUIDANCE}",
                f"data.tasks.{task}.path={prompts}", f"data.tasks.{task}.prompts_per_round=1",
            ]  # fmt: skip
        return settings


def checkpoints(run: Path) -> list[Path]:
    """A training's whole checkpoints; those that are being written have other names."""
    return sorted(each for each in run.glob("checkpoints/round_*") if re.fullmatch(r"round_\d+", each.name))


def _read_back(started: float, output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith("read back:")]
    return lines[-1] if lines else ""


def _noted(started: float, output: str) -> str:
    lines = [line.removeprefix("note: ") for line in output.splitlines() if line.startswith("note: ")]
    return lines[-1] if lines else ""
