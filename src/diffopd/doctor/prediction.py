"""Time, memory and disk that a run will take, from a few measured rounds, and what dominates each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table

from diffopd.callbacks.round_progress import duration
from diffopd.doctor.finding import Finding, Level
from diffopd.doctor.measure import FIRST, FULLER, PLAIN, Measured
from diffopd.doctor.plan import Plan, is_fuller
from diffopd.doctor.prompts import CacheFilling

GIB, MIB = 1024**3, 1024**2
OTHER, SAVING, ENCODING = "other", "checkpoints", "encoding prompts"
ELSE = "activations and all else"
TIGHT = 0.9
"""Share of the memory above which a training is likely to run out of it in some round."""

REMEDIES = {
    "rewards": "phase.score_in_background=true, or scorers on a reward server (reward=remote)",
    "teachers": "fewer trained steps (states), or teachers without guidance",
    "backbone without gradient": "fewer sampler.num_steps, or sampler.guidance_scale=1, which halves it",
    "backbone with gradient": "fewer trained steps (states), model.dtype=bf16 or model.compile=true on a GPU",
    "backward": "fewer trained steps (states), model.dtype=bf16 or model.compile=true on a GPU",
    SAVING: "a larger callbacks.round_checkpoint.every_n_rounds",
    ENCODING: "fewer prompts, or a prompt cache that other runs have filled",
}
"""Part of the time -> what makes it smaller."""


@dataclass(frozen=True)
class Prediction:
    """What a training will take, without the report at its end.

    Attributes:
        seconds: Part -> seconds over the whole training, the largest first; they add up to its time.
        memory: Part -> bytes of one process, the largest first; they add up to its peak.
        memory_needed: Bytes of all processes that share the memory.
        memory_present: Bytes there are.
        disk: Part -> bytes in the run's folder when the disk is fullest, the largest first.
        filling: What filling the prompt cache takes, which has a folder of its own.
        on_gpu: Whether memory means the GPU's.
    """

    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    memory_needed: int
    memory_present: int
    disk: Mapping[str, float]
    filling: CacheFilling
    on_gpu: bool

    @staticmethod
    def of(plan: Plan, measured: Measured) -> Prediction:
        """Rounds of each kind times how long one took; checkpoints times how often they are written."""
        keeping = plan.values["callbacks"].get("round_checkpoint")
        num_saves = math.ceil(plan.rounds / keeping["every_n_rounds"]) if keeping else 0
        seconds = _time_by_part(plan, measured) | {
            SAVING: num_saves * measured.save_seconds,
            ENCODING: measured.filling.seconds / plan.processes + measured.picture_seconds / plan.processes,
        }
        of_node = 1 if measured.on_gpu else plan.processes // int(plan.values["trainer"].get("num_nodes", 1))
        parts = dict(measured.parts) or {"weights": measured.weight_bytes}
        rest = max(0, measured.peak_bytes - sum(parts.values()))
        return Prediction(
            seconds=_largest_first(seconds),
            memory=_largest_first({**parts, ELSE: rest}),
            memory_needed=measured.peak_bytes * of_node,
            memory_present=measured.total_bytes,
            disk=_largest_first(
                {
                    SAVING: plan.num_kept * measured.checkpoint_bytes,
                    "what is saved at the end": measured.end_bytes,
                    "logs": plan.rounds * measured.log_bytes,
                }
            ),
            filling=measured.filling,
            on_gpu=measured.on_gpu,
        )

    def to_rich(self) -> Table:
        """The prediction for a terminal."""
        title = "prediction, without the report at the end"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for name in ("", "total", "parts"):
            table.add_column(name, no_wrap=name != "parts")
        for name, total, parts in self._rows():
            table.add_row(name, total, parts)
        return table

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        yield "time", duration(sum(self.seconds.values())), _shares(self.seconds)
        where = "GPU memory" if self.on_gpu else "memory"
        yield f"{where} per process", f"{sum(self.memory.values()) / GIB:.2f} GiB", _shares(self.memory)
        yield "disk", f"{sum(self.disk.values()) / MIB:.1f} MiB", _shares(self.disk)
        if self.filling.num_prompts:
            size, number = self.filling.bytes, self.filling.num_prompts
            yield (
                "prompt cache",
                f"{size / MIB:.1f} MiB",
                f"{number:,} prompts of {size / number / MIB:.2f} MiB",
            )

    def findings(self) -> Iterator[Finding]:
        """What dominates the time, and whether the memory will do."""
        name, largest = next(iter(self.seconds.items()))
        share = largest / max(sum(self.seconds.values()), 1e-9)
        if share > 0.5 and name in REMEDIES:
            yield Finding(Level.NOTE, "time", f"{name} takes {share:.0%}; to reduce it: {REMEDIES[name]}")
        needed, present = self.memory_needed / GIB, self.memory_present / GIB
        shown = f"{needed:.2f} GiB of {present:.2f} GiB at the peak of the measured rounds"
        advice = "; set a smaller phase.micro_batch_size, or model.gradient_checkpointing=true"
        if needed > present:
            yield Finding(Level.FAILURE, "memory", shown + advice)
        elif needed > TIGHT * present:
            yield Finding(Level.WARNING, "memory", shown + advice)
        else:
            yield Finding(Level.FINE, "memory", shown)


def num_rounds_of(plan: Plan) -> dict[str, int]:
    """How many rounds of each kind the training has."""
    fuller = plan.fuller_rounds - is_fuller(plan.values, 0)
    return {FIRST: 1, FULLER: fuller, PLAIN: plan.rounds - 1 - fuller}


def _time_by_part(plan: Plan, measured: Measured) -> dict[str, float]:
    number, seconds = num_rounds_of(plan), dict[str, float]()
    for measured_round in measured.rounds:
        rest = max(0.0, measured_round.seconds - sum(measured_round.parts.values()))
        for part, each in {**measured_round.parts, OTHER: rest}.items():
            seconds[part] = seconds.get(part, 0.0) + number[measured_round.kind] * each
    return seconds


def _largest_first(parts: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def _shares(parts: Mapping[str, float]) -> str:
    """The parts that make up at least a hundredth each."""
    total = max(sum(parts.values()), 1e-9)
    return ", ".join(f"{name} {part / total:.0%}" for name, part in parts.items() if part >= 0.01 * total)
