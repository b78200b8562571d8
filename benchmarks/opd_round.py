"""What the distillation round's three savings are worth on this machine.

Times whole rounds of the real phase in one run, the ways taking turns so that other work on the machine
touches all of them, and prints medians as a Markdown table::

    python benchmarks/opd_round.py --repeats 7 --output benchmarks/results/opd_round_cpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, save_adapter
from diffopd.build import Experiment, build
from diffopd.configs import config_folder
from diffopd.files import resolve_path
from diffopd.teacher import Recipe, TeacherCard

TASKS = ("composition", "ocr", "aesthetic")
EMBEDDED_MODEL = "package://assets/mini_sd3"
ROUNDS: dict[str, Callable[[Any, int], None]] = {
    "fused, tasks together": lambda phase, rows: set_round(phase, two_pass=False, micro_batch_size=None),
    "two-pass, tasks together": lambda phase, rows: set_round(phase, two_pass=True, micro_batch_size=None),
    "fused, task by task": lambda phase, rows: set_round(phase, two_pass=False, micro_batch_size=rows),
}
RATIOS = {
    "two-pass round / fused round": ("two-pass, tasks together", "fused, tasks together"),
    "task by task / tasks together": ("fused, task by task", "fused, tasks together"),
    "teachers one by one / mixed batch": ("teachers one by one", "teachers in one batch"),
}


def set_round(phase: Any, *, two_pass: bool, micro_batch_size: int | None) -> None:
    phase.two_pass, phase.micro_batch_size = two_pass, micro_batch_size


class TimeRounds(Callback):
    """Changes the way of the round from one round to the next, and times each; the first turn warms up."""

    def __init__(self, rows_per_task: int) -> None:
        self.rows_per_task = rows_per_task
        self.ways = list(ROUNDS)
        self.seconds: dict[str, list[float]] = {way: [] for way in self.ways}
        self.start = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        ROUNDS[self.ways[trainer.current_epoch % len(self.ways)]](pl_module, self.rows_per_task)
        self.start = now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        seconds = now() - self.start
        if trainer.current_epoch >= len(self.ways):
            self.seconds[self.ways[trainer.current_epoch % len(self.ways)]].append(seconds)


def time_teachers(experiment: Experiment, repeats: int) -> dict[str, list[float]]:
    """The teachers' velocities of one step's states: all rows in one forward, or one forward per teacher."""
    phase: Any = experiment.phase
    model, prompts = phase.model, experiment.data.batch(0)
    conditioning, empty = phase.conditioning(prompts), model.unconditional()
    latent, sigma = torch.randn(len(prompts), *model.latent_shape), torch.full((len(prompts),), 0.6)
    latent, sigma = latent.to(model.device), sigma.to(model.device)

    def velocity(rows: Sequence[int]) -> None:
        tasks, given = [prompts.tasks[row] for row in rows], conditioning.select(rows)
        phase.teacher.velocity(model, latent[list(rows)], sigma[list(rows)], tasks, given, empty)

    every = range(len(prompts))
    by_task = [[row for row in every if prompts.tasks[row] == task] for task in TASKS]
    ways = {"teachers in one batch": [list(every)], "teachers one by one": by_task}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, calls in ways.items():
            start = now()
            for rows in calls:
                velocity(rows)
            if repeat > 0:
                seconds[way].append(now() - start)
    return seconds


def now() -> float:
    """Seconds, after everything asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def prepare(arguments: argparse.Namespace, folder: Path) -> Experiment:
    """The `mopd_ode` experiment on the model, with random teachers: time does not depend on their values."""
    path = arguments.model_path or EMBEDDED_MODEL
    if arguments.model_path is None and not Path(resolve_path(path)).is_dir():
        path = str(save_untrained(folder / "pipeline"))
    model = [f"model={arguments.model}", f"model.path={path}"]
    guidance = f"sampler.guidance_scale={arguments.student_guidance}"
    save_teachers(folder, model, arguments.teacher_guidance)
    run = [
        "+experiment=mopd_ode",
        *model,
        *(f"teacher.teachers.{task}.path={folder / task}" for task in TASKS),
        *(f"data.tasks.{task}.prompts_per_round={arguments.rows_per_task}" for task in TASKS),
        guidance,
        "reward=picture_quality",
        "phase.score_every_n_rounds=0",
        f"trainer.max_epochs={len(ROUNDS) * (arguments.repeats + 1)}",
        f"trainer.num_threads={arguments.threads}",
        "callbacks=minimal",
        "logger=csv",
        "~report",
        f"paths.run={folder / 'run'}",
    ]
    return build(composed("train", run))


def composed(name: str, overrides: list[str]) -> Any:
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(name, overrides=overrides)


def save_untrained(folder: Path) -> Path:
    """The embedded model's architecture with random weights."""
    instantiate(composed("pipeline/mini_untrained", ["+seed=0"]).pipeline).save_pretrained(folder)
    return folder


def save_teachers(folder: Path, model_overrides: list[str], guidance_scale: float) -> None:
    cfg = composed("train", [*model_overrides, "adapter=lora_small", "paths.run=."])
    model = instantiate(cfg.model)
    adapter: LoRA = instantiate(cfg.adapter)
    for seed, task in enumerate(TASKS):
        generator = torch.Generator().manual_seed(seed)
        add_adapter(model.transformer, task, adapter, generator)
        for parameter in adapter_parameters(model.transformer, task).values():
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        save_adapter(model.transformer, task, folder / task)
        recipe = Recipe(
            command="benchmarks/opd_round.py",
            seed=seed,
            minutes=0.0,
            images=0,
            reward_calls=0,
            commit="none",
        )
        TeacherCard(
            name=task,
            task=task,
            guidance_scale=guidance_scale,
            base=model.identity,
            rank=adapter.rank,
            alpha=float(adapter.alpha),
            scores={},
            recipe=recipe,
        ).save(folder / task)


def markdown(seconds: Mapping[str, Sequence[float]]) -> str:
    """Medians and their ratios, with the spread of the repeats."""
    lines = ["| Way | median ms | least ms | most ms |", "|---|---|---|---|"]
    for way, values in seconds.items():
        ms = [1000 * value for value in (statistics.median(values), min(values), max(values))]
        lines.append(f"| {way} | " + " | ".join(f"{value:.0f}" for value in ms) + " |")
    lines += ["", "| Ratio of medians | |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in ratios(seconds).items()]
    return "\n".join(lines)


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {name: medians[slow] / medians[fast] for name, (slow, fast) in RATIOS.items()}


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "gpu": gpu,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "settings": vars(arguments),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="mini_sd3", help="config of the model")
    parser.add_argument("--model-path", help="pipeline folder; else the embedded model, or one untrained")
    parser.add_argument("--rows-per-task", type=int, default=16)
    parser.add_argument("--student-guidance", type=float, default=1.0)
    parser.add_argument("--teacher-guidance", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds of each way")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--output", help="JSON file for every measured time")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and return the result."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(arguments, Path(folder))
        rounds = TimeRounds(arguments.rows_per_task)
        experiment.trainer.callbacks.append(rounds)
        experiment.fit()
        seconds = rounds.seconds | time_teachers(experiment, arguments.repeats)
    result = {"seconds": seconds, "ratios": ratios(seconds), "machine": machine(arguments)}
    print(markdown(seconds))
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
