"""Does a training that is killed at any moment, and resumed, end as the one that never was?

For every phase one training runs to its end. Then, trial by trial, the same training is killed with SIGKILL:
at a random moment, or, every third time, at one of the file operations by which a checkpoint is written or an
old one removed, some of them half done. The same command resumes it, and everything it leaves is compared bit
by bit with what the uninterrupted training left: adapters and averages, optimiser, schedule, counters,
exported files and every logged number but times and memory::

    python benchmarks/soak.py --trials 50 --phases opd nft

This process imports what is needed once and forks the trainings. Every trial is written down as soon as it is
done, and trials that are there already, made by the same commit, are not repeated. A trial's kill point
follows from the seed, the phase and the trial's number; where in the training a moment falls also depends on
the machine.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import math
import os
import platform
import random
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file

import diffopd.build
import diffopd.cascade
import diffopd.doctor
import diffopd.evaluation
import diffopd.launch
import diffopd.report.cascade
import diffopd.stages
import diffopd.train
from diffopd.checkpoint import encode_tree, latest_valid_checkpoint, read_checkpoint
from diffopd.checkpoint import folder as checkpoint_folder
from diffopd.files import atomic_write_json, replacing, resolve_path
from diffopd.resume import FINISHED

INTERVAL = 2
"""Rounds from one checkpoint to the next."""
SECONDS = 3600
"""After so long a training counts as hanging."""
EVERY_RUN = (
    "trainer.accelerator=cpu",
    "trainer.num_threads=1",
    "logger=csv",
    f"callbacks.round_checkpoint.every_n_rounds={INTERVAL}",
    "callbacks.round_checkpoint.keep_last=2",
)
TASKS = ("composition", "ocr", "aesthetic")
FEW_PROMPTS = tuple(f"data.tasks.{task}.prompts_per_round=1" for task in TASKS)
STEPS = ("sampler.num_steps=3",)
NO_REPORT = "~report"
STUDENT = (
    NO_REPORT,
    *FEW_PROMPTS,
    *STEPS,
    "reward=picture_quality",
    "phase.score_every_n_rounds=3",
    "phase.ema.update_interval=2",
    "phase.conflict_every_n_rounds=3",
)
LEARNER = (NO_REPORT, "data.tasks.aesthetic.prompts_per_round=2", "data.tasks.aesthetic.group_size=2", *STEPS)
NFT = ("+experiment=teacher_aesthetic", *LEARNER, "phase.num_timesteps=2", "phase.updates_per_round=2")
GRPO = ("+experiment=guard_aesthetic", *LEARNER, "phase.updates_per_round=2", "phase.noise_window.last=1")
DRAWINGS = ("phase.warmup_steps=2", "data.num_drawings=16", "data.batch_size=2", "data.batches_per_round=2")
PHASES: dict[str, tuple[str, ...]] = {
    "opd": ("+experiment=mopd_ode", *STUDENT, "balance=remaining_gap"),
    "nft": NFT,
    "flow_grpo": (*GRPO, "loss=flow_grpo"),
    "guard": (*GRPO, "phase.noise_window.size=1"),
    "opd_sde": ("+experiment=mopd_sde", *STUDENT),
    "opd_log_ratio": ("+experiment=mopd_sde", *STUDENT, "estimator=log_ratio"),
    "opd_ppo": ("+experiment=mopd_ppo", *STUDENT),
    "opd_ppo_detached": ("+experiment=mopd_ppo", *STUDENT, "estimator=ppo_detached"),
    "dmd": ("+experiment=mopd_dmd", *STUDENT),
    "tdm": ("+experiment=mopd_tdm", *STUDENT, "phase.num_segments=3", "phase.tau_window=to_noise"),
    "sft": ("+experiment=mopd_sft", *STUDENT, "phase.num_timesteps=2"),
    "pretrain": (
        "+experiment=mini_pretrain",
        f"pipeline.path={resolve_path('package://assets/mini_sd3')}",
        *DRAWINGS,
    ),
    "autoencoder": ("+experiment=mini_autoencoder", *DRAWINGS),
    "cascade": (),
}
"""Phase -> what makes its training, beside what every training here has; the cascade has ``STAGES``."""
STAGES: Mapping[str, Sequence[str]] = {
    "first": NFT,
    "second": ("+experiment=mopd_ode", *STUDENT, "adapter=lora_small"),  # the shape that the first one leaves
}
"""What the cascade trains in turn."""
MOST_TRIALS = {"opd": 50, "nft": 50}
OTHER_TRIALS = 10
UNREPEATABLE = ("train/time/", "train/memory/")


# ---------------------------------------------------------------------------------------------- a kill point


@dataclass(frozen=True)
class KillPoint:
    """When a training is killed.

    Attributes:
        share: Share of the training's time, for a moment.
        operation: Number of a file operation on checkpoints, or None for a moment.
        half: Whether that operation is done half.
    """

    share: float
    operation: int | None
    half: bool

    @staticmethod
    def of(seed: int, phase: str, trial: int, num_operations: int) -> KillPoint:
        """The kill point of one trial; every third is at a file operation."""
        name = f"{seed}/{phase}/{trial}".encode()
        draw = random.Random(hashlib.sha256(name).hexdigest())
        share, operation, half = draw.random(), draw.randrange(max(1, num_operations)), draw.random() < 0.5
        return KillPoint(share, operation if trial % 3 == 2 and num_operations else None, half)

    def __str__(self) -> str:
        if self.operation is None:
            return f"at {self.share:.0%} of the time"
        return f"{'in' if self.half else 'before'} file operation {self.operation}"


class Operations:
    """Counts the file operations on checkpoints of this process, and ends it at one of them.

    Args:
        kill: Where to end.
    """

    def __init__(self, kill: KillPoint | None) -> None:
        self.count = 0
        self._at = kill.operation if kill else None
        self._half = kill is not None and kill.half

    def install(self) -> None:
        """Watch the module that writes checkpoints."""
        module: Any = checkpoint_folder
        write_text = Path.write_text

        def half_written(path: Path, text: str) -> None:
            write_text(path, text[: len(text) // 2])

        def half_saved(save: Callable[..., None], tensors: Any, path: Path) -> None:
            save(tensors, path)
            os.truncate(path, path.stat().st_size // 2)

        def half_removed(folder: Path) -> None:
            for file in list(Path(folder).iterdir())[:1]:
                file.unlink()

        def watched_write_text(path: Path, text: str, *rest: Any, **named: Any) -> int:
            if path.parent.name.endswith(".writing"):
                self._at_one(lambda: half_written(path, text))
            return write_text(path, text, *rest, **named)

        def watch(
            function: Callable[..., Any], half: Callable[..., None] | None = None
        ) -> Callable[..., Any]:
            def watched(*arguments: Any, **named: Any) -> Any:
                self._at_one(lambda: half(*arguments) if half else None)
                return function(*arguments, **named)

            return watched

        save = module.save_file
        Path.write_text = watched_write_text  # type: ignore[assignment,method-assign]
        module.save_file = watch(save, lambda tensors, path: half_saved(save, tensors, path))
        module._fingerprint = watch(module._fingerprint)
        module._flush = watch(module._flush)
        module.os = SimpleNamespace(**vars(os) | {"rename": watch(os.rename)})
        module.shutil = SimpleNamespace(**vars(shutil) | {"rmtree": watch(shutil.rmtree, half_removed)})

    def _at_one(self, half: Callable[[], None]) -> None:
        if self.count == self._at:
            if self._half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


# ------------------------------------------------------------------------------------------------- a process


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        code: Exit code; negative for a signal.
        seconds: From when it began to train to its end; from its start if it never began.
        operations: File operations on checkpoints; 0 for one that was killed.
    """

    code: int
    seconds: float
    operations: int


def run(program: str, arguments: Sequence[str], log: Path, kill: KillPoint | None, usual: float) -> Ended:
    """Fork a training, and kill it if asked to.

    Args:
        program: ``train`` or ``cascade``.
        arguments: Its command line.
        log: Gets what it prints.
        kill: When to kill it.
        usual: Seconds it takes from when it begins to train.
    """
    begun, tell = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(begun)
        _train(program, arguments, log, kill, tell)
    os.close(tell)
    start = time.monotonic()
    try:
        select.select([begun], [], [], SECONDS)  # the first byte, or the end of a process that never began
        os.read(begun, 1)
        start = time.monotonic()
        until = start + (kill.share * usual if kill and kill.operation is None else SECONDS)
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if time.monotonic() >= until:
                os.kill(process, signal.SIGKILL)
                until = math.inf
            time.sleep(0.002)
        seconds, told = time.monotonic() - start, os.read(begun, 64)
    finally:
        os.close(begun)
    return Ended(os.waitstatus_to_exitcode(status), seconds, int(told) if told.strip() else 0)


def _train(program: str, arguments: Sequence[str], log: Path, kill: KillPoint | None, tell: int) -> NoReturn:
    """What the forked process does."""
    code: Any = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        operations = Operations(kill)
        operations.install()
        experiment: Any = diffopd.build.Experiment
        fit = experiment.fit

        def told_fit(self: Any) -> None:
            os.write(tell, b"b")
            fit(self)

        experiment.fit = told_fit
        if program == "cascade":
            os.write(tell, b"b")
        sys.argv = [f"diffopd.{program}", *arguments]
        getattr(diffopd, program).main()
        code = 0
        os.write(tell, str(operations.count).encode())
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


# ----------------------------------------------------------------------------------------------- what it left


def what_is_left(folder: Path) -> dict[str, Any]:
    """Everything a finished training left that has to be the same, by name."""
    left: dict[str, Any] = {}
    for run_folder in sorted(path.parent for path in folder.rglob(FINISHED)):
        name = run_folder.relative_to(folder)
        newest = latest_valid_checkpoint(run_folder / "checkpoints")
        assert newest is not None, f"{run_folder} holds no checkpoint"
        state = read_checkpoint(newest)
        state["callbacks"] = {
            k: v for k, v in state["callbacks"].items() if not k.startswith("RoundCheckpoint")
        }
        numbers, tensors = encode_tree({"round": newest.name, **state})
        left[f"{name}: counters"] = json.dumps(numbers, sort_keys=True)
        left |= {f"{name}: {key}": _bits(tensor) for key, tensor in tensors.items()}
        left[f"{name}: metrics.csv"] = _metrics(run_folder)
    for file in folder.rglob("*.safetensors"):
        if "checkpoints" not in file.parts:  # by tensor: the order in a file's header is not fixed
            tensors = load_file(file)
            left |= {f"{file.relative_to(folder)}: {key}": _bits(tensor) for key, tensor in tensors.items()}
    return left


def _bits(tensor: torch.Tensor) -> str:
    return _sha256(
        f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.flatten().view(torch.uint8).numpy().tobytes()
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _metrics(folder: Path) -> list[dict[str, str]]:
    """Every logged line; of times and memory only that they are there."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {
                name: "logged" if name.startswith(UNREPEATABLE) else value
                for name, value in line.items()
                if value
            }
            for line in csv.DictReader(file)
        ]


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of what differs, or is in one of them alone."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def lost_rounds(folder: Path) -> int:
    """Rounds that were begun, if only in part, and are not in the newest checkpoint of the run under way."""
    logs = sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return 0
    with logs[-1].open(newline="") as file:
        rounds = [int(float(line["epoch"])) + 1 for line in csv.DictReader(file) if line.get("epoch")]
    newest = latest_valid_checkpoint(logs[-1].parent / "checkpoints")
    saved = int(newest.name.removeprefix("round_")) if newest else 0
    return max([*rounds, saved]) - saved


# ----------------------------------------------------------------------------------------------------- trials


@dataclass(frozen=True)
class Trial:
    """One training that was killed and resumed.

    Attributes:
        phase: Its phase.
        number: Which trial of the phase.
        kill: When it was to be killed.
        killed: Whether it was; it may have ended before.
        survived: Whether the resumed training ended well.
        differs: What is not as the uninterrupted training left it.
        lost: Rounds that had to be trained again.
    """

    phase: str
    number: int
    kill: str
    killed: bool
    survived: bool
    differs: Sequence[str]
    lost: int


class NoTrainingError(RuntimeError):
    """A training that fails uninterrupted."""


class Soak:
    """The trials of one phase after the other.

    Args:
        scratch: Folder for the trainings; a trial's is removed unless it failed.
        rounds: Of each training.
        seed: Of the kill points.
        overrides: Of every training, beside those here.
    """

    def __init__(self, scratch: Path, rounds: int, seed: int, overrides: Sequence[str]) -> None:
        self.scratch, self.rounds, self.seed, self.overrides = scratch, rounds, seed, tuple(overrides)
        self._whole: dict[str, tuple[Ended, dict[str, Any]]] = {}

    def trial(self, phase: str, number: int) -> Trial:
        """Train, kill, resume, compare."""
        whole, expected = self.whole(phase)
        kill = KillPoint.of(self.seed, phase, number, whole.operations)
        folder = self.scratch / phase / f"trial_{number}"
        shutil.rmtree(folder, ignore_errors=True)
        cut = self._run(phase, folder, kill, whole.seconds)
        lost = lost_rounds(folder)
        resumed = self._run(phase, folder, None, 0)
        survived = resumed.code == 0
        differs = differences(what_is_left(folder), expected) if survived else ["it did not end well"]
        if not differs:
            shutil.rmtree(folder)
        killed = cut.code == -signal.SIGKILL
        return Trial(phase, number, str(kill), killed, survived, differs[:10], lost)

    def whole(self, phase: str) -> tuple[Ended, dict[str, Any]]:
        """The uninterrupted training, and what it left."""
        if phase not in self._whole:
            folder = self.scratch / phase / "whole"
            shutil.rmtree(folder, ignore_errors=True)
            ended = self._run(phase, folder, None, 0)
            if ended.code != 0:
                raise NoTrainingError(
                    f"{phase} does not train: {(folder.parent / 'whole.log').read_text()[-3000:]}"
                )
            self._whole[phase] = ended, what_is_left(folder)
            shutil.rmtree(folder)
        return self._whole[phase]

    def _run(self, phase: str, folder: Path, kill: KillPoint | None, usual: float) -> Ended:
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}.log")
        shared = (*EVERY_RUN, f"trainer.max_epochs={self.rounds}", *self.overrides)
        if phase != "cascade":
            arguments = [*PHASES[phase], *shared, f"hydra.run.dir={folder}"]
            return run("train", arguments, log, kill, usual)
        configs = self._stages(shared)
        arguments = ["--config-dir", str(configs), "stages=soak", f"hydra.run.dir={folder}"]
        return run("cascade", arguments, log, kill, usual)

    def _stages(self, shared: Sequence[str]) -> Path:
        """A config folder with the stages of the cascade."""
        benchmark = [f"benchmark.tasks.{task}.num_prompts=2" for task in TASKS]
        shared = [*shared, *benchmark, "benchmark.sampler.num_steps=2"]
        stages = {
            name: {
                "experiment": arguments[0].removeprefix("+experiment="),
                "overrides": [each for each in (*arguments[1:], *shared) if each != NO_REPORT],
            }
            for name, arguments in STAGES.items()
        }
        atomic_write_json(self.scratch / "configs" / "stages" / "soak.yaml", stages)
        return self.scratch / "configs"


# ------------------------------------------------------------------------------------------------------ table


def table(trials: Sequence[Trial]) -> str:
    """A line for each phase, as Markdown."""
    lines = [
        "| Phase | Trials | Killed | while writing a checkpoint | Survived | Equal | Lost rounds, most |",
        "|---|---|---|---|---|---|---|",
    ]
    for phase in dict.fromkeys(trial.phase for trial in trials):
        of_phase = [trial for trial in trials if trial.phase == phase]
        killed = [trial for trial in of_phase if trial.killed]
        counts = (
            len(of_phase),
            len(killed),
            sum("operation" in trial.kill for trial in killed),
            sum(trial.survived for trial in of_phase),
            sum(not trial.differs for trial in of_phase),
            max(trial.lost for trial in of_phase),
        )
        lines.append(f"| {' | '.join([phase, *map(str, counts)])} |")
    return "\n".join(lines)


def write(output: Path, about: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    """The table and every trial."""
    text = (
        f"`{about['command']}` at commit {about['commit']}: {about['rounds']} rounds, a checkpoint every "
        f"{INTERVAL}.\n\n{table(trials)}\n"
    )
    with replacing(output / "soak.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    atomic_write_json(
        output / "soak.json", {**about, "trials": [dataclasses.asdict(trial) for trial in trials]}
    )


def earlier(output: Path, about: Mapping[str, Any]) -> list[Trial]:
    """Trials that an earlier, interrupted soak of the same code has made."""
    file = output / "soak.json"
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    same = all(found.get(key) == about[key] for key in ("commit", "rounds", "seed", "overrides"))
    return [Trial(**trial) for trial in found["trials"]] if same else []


def commit() -> str:
    """Of the code, with a note if it was changed since."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "conf", "benchmarks/soak.py")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument(
        "--trials", type=int, help="of every phase; by default 50 for opd and nft, 10 for others"
    )
    parser.add_argument("--rounds", type=int, default=4, help="of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the kill points")
    parser.add_argument("--output", type=Path, default=Path("experiments/soak"))
    parser.add_argument("--scratch", type=Path, default=Path("runs/soak"), help="where the trainings go")
    parser.add_argument(
        "overrides", nargs="*", help="of every training, as on the command line of diffopd.train"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials; 1 if one was not survived, not equal, or lost more than an interval."""
    given = parse(arguments)
    about = {
        "command": shlex.join(
            ["python", "benchmarks/soak.py", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "commit": commit(),
        "rounds": given.rounds,
        "interval": INTERVAL,
        "seed": given.seed,
        "overrides": list(given.overrides),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    soak = Soak(given.scratch.absolute(), given.rounds, given.seed, given.overrides)
    trials = earlier(given.output, about)
    done = {(trial.phase, trial.number) for trial in trials}
    wanted = {phase: given.trials or MOST_TRIALS.get(phase, OTHER_TRIALS) for phase in given.phases}
    turns = ((phase, number) for number in range(max(wanted.values())) for phase in given.phases)
    broken: set[str] = set()
    for phase, number in turns:  # so that an early end leaves something of every phase
        if number >= wanted[phase] or (phase, number) in done or phase in broken:
            continue
        try:
            trial = soak.trial(phase, number)
        except NoTrainingError as error:
            broken.add(phase)
            print(error, file=sys.stderr, flush=True)
            continue
        trials.append(trial)
        write(given.output, about, trials)
        outcome = "equal" if not trial.differs else f"DIFFERS: {', '.join(trial.differs)}"
        print(f"{phase} {number}: killed {trial.kill}, lost {trial.lost}, {outcome}", flush=True)
    print(table(trials), flush=True)
    return int(bool(broken) or any(trial.differs or trial.lost > INTERVAL for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
