"""What a run will do according to its config; nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich import box
from rich.table import Table

from diffopd.check.setting import phase_takes
from diffopd.check.tasks import tasks_of
from diffopd.data.pair_files import caption_keys, read_captions, texts_of
from diffopd.data.prompt_files import read_prompt_files
from diffopd.doctor.cost import Cost, due, phase_name, rows_of, run_cost
from diffopd.doctor.device import num_processes
from diffopd.types.size import height_and_width


@dataclass(frozen=True)
class TaskPlan:
    """One task's prompts.

    Attributes:
        task: Its name.
        setting: Where the config has it, e.g. ``data.tasks.ocr``.
        kind: What it has: ``prompts`` or ``pictures``.
        number: How many of them.
        texts: The prompts in its file, or the captions of its pictures.
        prompts_per_round: Different prompts in a round.
        group_size: Samples of each.
    """

    task: str
    setting: str
    kind: str
    number: int
    texts: Sequence[str]
    prompts_per_round: int
    group_size: int


@dataclass(frozen=True)
class Plan:
    """What a training is going to do.

    Attributes:
        values: The composed config as plain values.
        tasks: Its prompts; empty if it trains on drawings.
        rounds: Rounds (epochs).
        processes: Processes that train together.
        fuller_rounds: Rounds that also score for the log or measure the conflict of the tasks' gradients.
        cost: Images, reward calls and updates of all rounds; None for a phase that is not known here.
    """

    values: Mapping[str, Any]
    tasks: Sequence[TaskPlan]
    rounds: int
    processes: int
    fuller_rounds: int
    cost: Cost | None

    @staticmethod
    def of(values: Mapping[str, Any]) -> Plan:
        """The plan of a config that passes the check.

        Args:
            values: By :func:`diffopd.check.values.plain_values`.

        Raises:
            ValueError: If a prompt file cannot be read.
        """
        rounds = values["trainer"]["max_epochs"]
        return Plan(
            values=values,
            tasks=tuple(_tasks(values)),
            rounds=rounds,
            processes=num_processes(values["trainer"]),
            fuller_rounds=sum(is_fuller(values, number) for number in range(rounds)),
            cost=run_cost(values),
        )

    @property
    def num_kept(self) -> int:
        """Checkpoints that are there at most: one is written before the oldest is removed."""
        keeping = self.values["callbacks"].get("round_checkpoint")
        if not keeping:
            return 0
        num_saves = math.ceil(self.rounds / keeping["every_n_rounds"])
        for_good = self.rounds // keeping["keep_every_n_rounds"] if keeping["keep_every_n_rounds"] else 0
        return min(num_saves, for_good + keeping["keep_last"] + 1)

    @property
    def rows_per_round(self) -> int:
        """Samples in the first round over all processes."""
        return rows_of(self.values, 0)

    def to_rich(self) -> Table:
        """The plan for a terminal."""
        table = Table(title="plan", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in self.lines():
            table.add_row(name, text)
        return table

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is planned, by name."""
        values = self.values
        yield "run", f"{values['name']}, {phase_name(values)}, in {values['paths']['run']}"
        if phase_takes(values, "model"):
            model = values["model"]
            height, width = height_and_width(model["image_size"])
            pixels = f"{height}" if height == width else f"{height} x {width}"
            yield "model", f"{model['path']}, {pixels} pixels, {model['dtype']}"
        if phase_takes(values, "adapter"):
            adapter = values["adapter"]
            start = adapter.get("start") or (
                "the mean of others" if adapter.get("merge") else "the base model"
            )
            shape = (
                f"rank {adapter['rank']}, alpha {adapter['alpha']}" if "rank" in adapter else "all weights"
            )
            yield "adapter", f"{shape}, starts as {start}"
        if phase_takes(values, "teacher"):
            yield from _self_teacher(values.get("teacher") or {})
            for name, entry in ((values.get("teacher") or {}).get("teachers") or {}).items():
                scale = entry["guidance_scale"]
                guidance = "the guidance in its card.json" if scale is None else f"guidance {scale:g}"
                yield f"teacher {name}", f"{entry['path']}, {guidance}"
        for task in self.tasks:
            number = f"{task.number:,} {task.kind}, {task.prompts_per_round} per round"
            yield f"task {task.task}", f"{number}, group size {task.group_size}"
        if phase_takes(values, "reward") and values.get("reward") is not None:
            yield "reward", ", ".join(_reward_names(values))
        if phase_takes(values, "sampler"):
            sampler = values["sampler"]
            yield (
                "sampling",
                (
                    f"{sampler['num_steps']} steps, noise level {sampler['noise_level']:g}, "
                    f"guidance {sampler['guidance_scale']:g}"
                ),
            )
        shared = f" shared by {self.processes} processes" if self.processes > 1 else ""
        yield "rounds", f"{self.rounds:,} of {self.rows_per_round:,} samples{shared}"
        if self.cost is not None:
            for field in fields(self.cost):
                if number := getattr(self.cost, field.name):
                    yield field.name.replace("_", " "), f"{number:,}"
        if keeping := values["callbacks"].get("round_checkpoint"):
            every, for_good = keeping["every_n_rounds"], keeping["keep_every_n_rounds"]
            kept = f"{keeping['keep_last']} kept" + (f"; {_every(for_good)} permanently" if for_good else "")
            yield "checkpoints", f"{_every(every)}, {kept}"


def _every(number: int) -> str:
    return "every round" if number == 1 else f"every {number} rounds"


def is_fuller(values: Mapping[str, Any], number: int) -> bool:
    """Whether a round does more than others: scores for the log, or measures the gradients' conflict."""
    phase = values["phase"]
    names = ("score_every_n_rounds", "conflict_every_n_rounds")
    return any(due(phase.get(name), number) for name in names)


def _self_teacher(teacher: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The model as its own teacher."""
    if "weights" not in teacher or "context" not in teacher:
        return
    weights = teacher["weights"]
    if weights == "ema":
        weights = f"average of the student, decay {teacher['decay']:g} in {teacher['average_dtype']}"
    told = str(teacher["context"]["_target_"]).rpartition(".")[2].lower()
    yield "teacher", f"the model itself ({weights}), told more by context={told}"


def _tasks(values: Mapping[str, Any]) -> Iterator[TaskPlan]:
    for task, at in tasks_of(values).items():
        path, counts = at.entry["path"], (at.entry["prompts_per_round"], at.entry["group_size"])
        if at.setting == "data":
            entry, template = at.entry, at.entry.get("template")
            keys = caption_keys(entry["caption_key"], template)
            files = read_captions(
                path, entry["captions"], entry["picture_key"], keys, entry.get("rejected_key")
            )
            texts = tuple(text for file in files for text in texts_of(file, keys, template))
            yield TaskPlan(task, at.setting, "pictures", len(files), texts, *counts)
        else:
            prompts = read_prompt_files(path, task, setting=f"{at.setting}.path")
            texts = tuple(prompt.text for prompt in prompts)
            yield TaskPlan(task, at.setting, "prompts", len(texts), texts, *counts)


def _reward_names(values: Mapping[str, Any]) -> Iterator[str]:
    reward = values["reward"]
    members = reward.get("rewards") if isinstance(reward.get("rewards"), Mapping) else {"": reward}
    for name, node in members.items():
        label = str(node.get("_target_", "")).rpartition(".")[2]
        yield f"{name}: {label}" if name else label
    for name in values["phase"].get("held_out") or ():
        yield f"{name} (not trained on)"
