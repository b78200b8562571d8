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
import dataclasses
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from forked import Ended, run
from kill_point import KillPoint
from left_behind import differences, lost_rounds, what_is_left

from diffopd.files.atomic import atomic_write_json, replacing
from diffopd.files.paths import resolve_path
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json

INTERVAL = 2
"""Rounds from one checkpoint to the next."""
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
    "few_step": (
        *("+experiment=few_step_aesthetic", *LEARNER, "phase.updates_per_round=2"),
        "regulariser.fake_updates_per_round=1",
    ),
    "self_opd": (
        *("+experiment=self_opd_aesthetic", NO_REPORT, "data.tasks.aesthetic.prompts_per_round=2", *STEPS),
        *("phase.state_weights=[2,1]", "phase.num_branches=2"),
    ),
    "online_dpo": (
        *("+experiment=online_dpo_aesthetic", *LEARNER),
        *("phase.num_timesteps=2", "phase.updates_per_round=2"),
    ),
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
    write_sealed_json(
        output / "soak.json", {**about, "trials": [dataclasses.asdict(trial) for trial in trials]}
    )


def earlier(output: Path, about: Mapping[str, Any]) -> list[Trial]:
    """Trials that an earlier, interrupted soak of the same code has made.

    Raises:
        DamagedFileError: If their file is not what was written.
    """
    file = output / "soak.json"
    if not file.is_file():
        return []
    found = read_sealed_json(file, {*about, "trials"})
    same = all(found.get(key) == about[key] for key in ("commit", "rounds", "seed", "overrides"))
    return [Trial(**trial) for trial in found["trials"]] if same else []


def commit() -> str:
    """Of the code, with a note if it was changed since."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "conf", "benchmarks")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument(
        "--trials", type=int, help="of every phase; by default 50 for opd and nft, 10 for others"
    )
    parser.add_argument("--rounds", type=int, default=4, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the kill points")
    parser.add_argument("--output", type=Path, default=Path("experiments/soak"))
    parser.add_argument("--scratch", type=Path, default=Path("runs/soak"), help="where the runs go")
    parser.add_argument("overrides", nargs="*", help="for every run, as on the command line of diffopd.train")
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
    try:
        trials = earlier(given.output, about)
    except DamagedFileError as error:
        print(f"{error}; move it away to begin anew", file=sys.stderr)
        return 1
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
