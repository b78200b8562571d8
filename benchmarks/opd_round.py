"""What the distillation round's savings are worth on this machine, in time and in memory.

Whole rounds of the real phase in one run, on the embedded model. The ways take turns, so that other work on
the machine touches all of them; tables go to the terminal and, as Markdown and JSON, into a folder::

    python benchmarks/opd_round.py --output experiments/bench
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from comparison import Comparison, Measured, markdown, show, write
from measured import Clock, machine
from random_teachers import TASKS
from setting import Setting
from turns import TakeTurns, Way, peak, take_turns

from diffopd.build.experiment import Experiment

BLOCKS, BLOCKS_BF16 = "fused blocks", "fused blocks, bf16"
FUSED, TWO_PASS, BY_TASK, ENCODING = (
    "fused round",
    "two-pass round",
    "round, task by task",
    "round with encoding",
)
MIXED, BY_TEACHER = "teachers, mixed batch", "teachers, one by one"
KNOWN, ANEW = "prompts, known", "prompts, encoded"
WAYS = {
    FUSED: Way(),
    TWO_PASS: Way(two_pass=True),
    BY_TASK: Way(task_by_task=True),
    ENCODING: Way(encode_anew=True),
    BLOCKS: Way(blocks="fp32"),
    BLOCKS_BF16: Way(blocks="bf16"),
}
COMPARISONS = (
    Comparison("round: fused, not two-pass", slower=TWO_PASS, faster=FUSED),
    Comparison("round: tasks together, not in turn", slower=BY_TASK, faster=FUSED),
    Comparison("round: prompts encoded before it", slower=ENCODING, faster=FUSED),
    Comparison("blocks: fused, fp32", slower=FUSED, faster=BLOCKS),
    Comparison("blocks: fused, bf16", slower=FUSED, faster=BLOCKS_BF16),
    Comparison("teachers: one batch, not in turn", slower=BY_TEACHER, faster=MIXED),
    Comparison("prompts: read, not encoded again", slower=ANEW, faster=KNOWN),
)
ONE_BACKWARD = "one backward for all steps"


def measure_rounds(setting: Setting, comparisons: Sequence[Comparison]) -> dict[str, Measured]:
    """Every way of a round that is compared, then of its parts, at the states of one step."""
    compared = {way for entry in comparisons for way in (entry.slower, entry.faster)}
    ways = {name: way for name, way in WAYS.items() if name in compared}
    turns = TakeTurns(ways, setting.repeats, setting.rows_per_task)
    experiment = setting.build(turns)
    experiment.fit()
    parts = {**ways_of_teaching(experiment), **ways_of_encoding(experiment)}
    parts = {name: part for name, part in parts.items() if name in compared}
    return turns.found | take_turns(parts, setting.repeats)


def ways_of_teaching(experiment: Experiment) -> dict[str, Callable[[], None]]:
    """The teachers' velocities: all rows in one forward, or one forward per teacher."""
    phase: Any = experiment.phase
    model, prompts = phase.model, experiment.data.batch(0)
    conditioning, empty = phase.conditioning(prompts), model.unconditional()
    latent, sigma = torch.randn(len(prompts), *model.latent_shape), torch.full((len(prompts),), 0.6)
    latent, sigma = latent.to(model.device), sigma.to(model.device)

    def ask(calls: Sequence[Sequence[int]]) -> None:
        for rows in calls:
            tasks, given = [prompts.tasks[row] for row in rows], conditioning.select(rows)
            phase.teacher.velocity(model, latent[list(rows)], sigma[list(rows)], tasks, given, empty)

    every = range(len(prompts))
    by_task = [[row for row in every if prompts.tasks[row] == task] for task in TASKS]
    return {MIXED: lambda: ask([every]), BY_TEACHER: lambda: ask(by_task)}


def ways_of_encoding(experiment: Experiment) -> dict[str, Callable[[], None]]:
    """One round's prompts, encoded before or now."""
    phase: Any = experiment.phase
    prompts = experiment.data.batch(0)

    def anew() -> None:
        phase._encoded.clear()
        phase.conditioning(prompts)

    return {KNOWN: lambda: phase.conditioning(prompts), ANEW: anew}


def measure_steps(setting: Setting, num_steps: Sequence[int]) -> dict[str, dict[int, int]]:
    """Peak memory of a round by the length of its rollout, beside a rollout that keeps every step's graph.

    Returns:
        way -> number of steps -> bytes.
    """
    ways = {name: WAYS[name] for name in (FUSED, TWO_PASS)}
    found: dict[str, dict[int, int]] = {name: {} for name in (*ways, ONE_BACKWARD)}
    for number in num_steps:
        turns = TakeTurns(ways, 0, setting.rows_per_task)
        experiment = setting.build(turns, f"sampler.num_steps={number}")
        experiment.fit()
        for name, measured in turns.found.items():
            assert measured.peak_bytes is not None
            found[name][number] = measured.peak_bytes
        found[ONE_BACKWARD][number] = peak(lambda experiment=experiment: one_backward(experiment))
    return found


def one_backward(experiment: Experiment) -> None:
    """What the round avoids: the graph of all the student's steps held for one backward."""
    phase: Any = experiment.phase
    prompts = experiment.data.batch(0)
    rollout = phase.rollout(phase.sampler, prompts, phase.conditioning(prompts), phase.student)
    steps = [transition.velocity.square().mean() for transition in rollout]
    torch.stack(steps).sum().backward()
    phase.zero_grad()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="mini_sd3", help="config of the model")
    parser.add_argument("--model-path", help="pipeline folder; else the embedded model, or one untrained")
    parser.add_argument("--rows-per-task", type=int, default=8)
    parser.add_argument("--student-guidance", type=float, default=1.0)
    parser.add_argument("--teacher-guidance", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds of each way")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40], help="lengths of rollout to weigh")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument(
        "--only", default="", help="choices whose names begin so: 'round: ...', 'blocks: ...'"
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="for a busy machine: not time that passes"
    )
    parser.add_argument("--output", help="folder for the tables, .md and .json")
    parser.add_argument("--name", default="opd_round", help="name of the files in it")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and return the result."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    comparisons = [entry for entry in COMPARISONS if entry.name.startswith(arguments.only)]
    if not comparisons:
        raise SystemExit(f"--only={arguments.only}: no choice begins so: {[e.name for e in COMPARISONS]}")
    if arguments.processor_time:
        Clock.count_processor_time()
    on = machine(arguments) | {"command": shlex.join(["python", "benchmarks/opd_round.py", *given])}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting.of(arguments, Path(folder))
        found = measure_rounds(setting, comparisons)
        steps = {} if arguments.only else measure_steps(setting, arguments.steps)
    show(found, comparisons, steps)
    result = {
        "ways": {name: vars(measured) for name, measured in found.items()},
        "ratios": {entry.name: entry.ratio(found) for entry in comparisons},
        "peak_bytes_by_steps": steps,
        "machine": on,
    }
    if arguments.output:
        write(Path(arguments.output), arguments.name, result, markdown(found, comparisons, steps))
    return result


if __name__ == "__main__":
    main()
