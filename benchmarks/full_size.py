"""How fast and in how much memory the phases train at full size, and what each choice is worth.

Stable Diffusion 3.5 Medium's architecture with random weights at 512 pixels, each case in a process of its
own, so that one out of memory ends that case alone::

    python benchmarks/full_size.py --output experiments/bench/full_size.json

Needs a GPU; without one it says so. ``--model mini_sd3`` runs the same cases on the embedded model's
architecture, on any machine with a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from measured import machine, now
from random_teachers import TASKS, composed, save_teachers

from diffopd.build.experiment import build
from diffopd.files.atomic import atomic_write_text

FULL_SIZE = "sd3_5_medium"
RESULT = "result: "
"""Begins the line on which a case prints what it measured."""
EXPERIMENTS = {"mopd": "mopd_ode", "guard": "guard_aesthetic", "nft": "teacher_aesthetic"}
GROUP_SIZE = 8


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        method: A key of ``EXPERIMENTS``.
        way: ``fused``, ``two_pass`` or ``released`` for mopd; ``eager`` for the others; with ``, compiled``.
        images: Images of a round.
    """

    method: str
    way: str
    images: int

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.method}, {self.way}, {self.images} images"

    def overrides(self) -> list[str]:
        """What makes the experiment this case."""
        compiled = self.way.endswith("compiled")
        settings = [f"model.compile={str(compiled).lower()}"]
        if self.method != "mopd":
            groups = max(1, self.images // GROUP_SIZE)
            sizes = [f"data.tasks.aesthetic.prompts_per_round={groups}"]
            sizes += [f"data.tasks.aesthetic.group_size={self.images // groups}"]
            return [*settings, *sizes, "reward=spectrum", "phase.conflict_every_n_rounds=0"]
        settings += [f"data.tasks.{task}.prompts_per_round={self.images // len(TASKS)}" for task in TASKS]
        settings += ["phase.score_every_n_rounds=0", "phase.conflict_every_n_rounds=0"]
        if self.way == "two_pass":
            settings.append("phase.round=two_pass")
        if (
            self.way == "released"
        ):  # fp32 weights under autocast, one task's rows in a forward, every step twice
            settings += ["phase.round=two_pass", f"phase.micro_batch_size={self.images // len(TASKS)}"]
            settings += ["model.dtype=fp32", "trainer.precision=bf16-mixed"]
        return settings


def cases(batches: Sequence[int]) -> list[Case]:
    """All rows: a batch sweep of the fused round, every other way at the middle batch."""
    middle = sorted(batches)[len(batches) // 2]
    sweep = [Case("mopd", "fused", images) for images in batches]
    ways = ("fused, compiled", "two_pass")
    return [
        *sweep,
        *(Case("mopd", way, middle) for way in ways),
        Case("mopd", "released", 9),
        *(Case(method, way, middle) for method in ("guard", "nft") for way in ("eager", "eager, compiled")),
    ]


class Watch(Callback):
    """Times each round after the first two, and counts the operations of the first."""

    def __init__(self, count_flops: bool) -> None:
        self.count_flops = count_flops
        self.seconds: list[float] = []
        self.flops: int | None = None
        self.start = 0.0
        self._counter: FlopCounterMode | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.current_epoch == 0 and self.count_flops:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
        self.start = now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        seconds = now() - self.start
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops, self._counter = self._counter.get_total_flops(), None
        if trainer.current_epoch >= 2:
            self.seconds.append(seconds)
        if trainer.current_epoch == 1 and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def measure(case: Case, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one case in this process."""
    run = [
        f"+experiment={EXPERIMENTS[case.method]}",
        *model_overrides(folder, arguments),
        *teachers(case, folder),
        *case.overrides(),
        f"sampler.guidance_scale={arguments.guidance if case.method == 'mopd' else 1.0}",
        f"trainer.max_epochs={arguments.rounds + 2}",
        "trainer.num_threads=1",
        "callbacks=minimal",
        "logger=csv",
        "~report",
        f"paths.run={folder / 'run' / case.name.replace(', ', '_').replace(' ', '_')}",
    ]
    experiment = build(composed("train", run))
    watch = Watch(count_flops=not case.way.endswith("compiled"))
    experiment.trainer.callbacks.append(watch)
    experiment.fit()
    gpu = torch.cuda.is_available()
    return {
        "seconds": watch.seconds,
        "flops": watch.flops,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else None,
        "matmul_flops_per_second": matmul_rate(8192 if gpu else 512),
    }


def teachers(case: Case, folder: Path) -> list[str]:
    return (
        [f"teacher.teachers.{task}.path={folder / task}" for task in TASKS] if case.method == "mopd" else []
    )


def model_overrides(folder: Path, arguments: argparse.Namespace) -> list[str]:
    return [f"model={arguments.model}", f"model.path={folder / 'pipeline'}"]


def matmul_rate(side: int, repeats: int = 20) -> float:
    """Floating-point operations per second of a square matrix product in bf16, the best of several."""
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = now()
        a @ b
        best = min(best, now() - start)
    return 2 * side**3 / best


def summary(case: Case, found: Mapping[str, Any], flops: int | None) -> dict[str, Any]:
    """What the table says of a case.

    Args:
        case: The case.
        found: What it measured.
        flops: Operations of a round, counted by the same case uncompiled.
    """
    if "error" in found:
        return {"case": case.name, "error": found["error"]}
    seconds = statistics.median(found["seconds"])
    rate = flops / seconds if flops else None
    return {
        "case": case.name,
        "seconds_per_round": seconds,
        "images_per_second": case.images / seconds,
        "tflops_per_second": rate and rate / 1e12,
        "share_of_matmul_rate": rate and rate / found["matmul_flops_per_second"],
        "peak_gib": found["peak_gib"],
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table; what is not known is a dash."""
    columns = {
        "images_per_second": ("images / s", ".2f"),
        "seconds_per_round": ("s / round", ".2f"),
        "tflops_per_second": ("TFLOP/s", ".1f"),
        "share_of_matmul_rate": ("of matrix product", ".0%"),
        "peak_gib": ("peak GiB", ".1f"),
    }
    head = [title for title, _ in columns.values()]
    lines = ["| Case | " + " | ".join(head) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        if "error" in row:
            cells = [row["error"], *[""] * (len(columns) - 1)]
        else:
            cells = [
                "-" if row[key] is None else format(row[key], form) for key, (_, form) in columns.items()
            ]
        lines.append(f"| {row['case']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Save the model with random weights, in bf16 at full size, and random teachers."""
    name = "sd3_5_medium_untrained" if arguments.model == FULL_SIZE else "mini_untrained"
    pipeline = instantiate(composed(f"pipeline/{name}", ["+seed=0"]).pipeline)
    if arguments.model == FULL_SIZE:
        pipeline.to(dtype=torch.bfloat16)
    pipeline.save_pretrained(folder / "pipeline")
    del pipeline
    save_teachers(folder, model_overrides(folder, arguments), arguments.guidance)


def run_alone(case: Case, folder: Path, argv: Sequence[str]) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, *argv, "--folder", str(folder), "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(RESULT):
            return json.loads(line.removeprefix(RESULT))
    if "out of memory" in done.stderr.lower():
        return {"error": "out of memory"}
    raise SystemExit(f"{case.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=FULL_SIZE, help=f"{FULL_SIZE}, or mini_sd3 for any machine")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of each case")
    parser.add_argument("--batches", type=int, nargs="+", default=[12, 24, 48], help="images of a round")
    parser.add_argument("--guidance", type=float, default=4.5, help="of student and teachers in mopd")
    parser.add_argument("--output", help="JSON file for everything measured")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and return the rows."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    if arguments.case:
        case = Case(**json.loads(arguments.case))
        print(RESULT + json.dumps(measure(case, Path(arguments.folder), arguments)))
        return []
    if arguments.model == FULL_SIZE and not torch.cuda.is_available():
        print(f"{FULL_SIZE}: not measured, as this machine has no GPU; --model mini_sd3 needs none")
        return []
    started, flops, rows, found = time.time(), {}, [], {}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), arguments)
        for case in cases(arguments.batches):
            found[case.name] = result = run_alone(case, Path(name), given)
            key = (case.method, case.way.removesuffix(", compiled"), case.images)
            flops.setdefault(key, result.get("flops"))
            rows.append(summary(case, result, flops[key]))
            print(f"{time.time() - started:6.0f} s  {case.name}", file=sys.stderr, flush=True)
    print(markdown(rows))
    if arguments.output:
        content = {"rows": rows, "found": found, "machine": machine(arguments)}
        atomic_write_text(arguments.output, json.dumps(content, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
