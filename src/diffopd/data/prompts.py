"""Prompts for phases that sample: one batch a round, decided by the round's number alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from diffopd.data.prompt_files import PromptEntry, read_prompts
from diffopd.randomness import numpy_generator
from diffopd.types import Prompts


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of one task and how many a round takes.

    Attributes:
        entries: All its prompts.
        prompts_per_round: Different prompts in a round.
        group_size: Samples of each.
    """

    entries: Sequence[PromptEntry]
    prompts_per_round: int
    group_size: int

    @property
    def rows_per_round(self) -> int:
        """Samples of this task in a round."""
        return self.prompts_per_round * self.group_size


SCHEDULES = ("accumulate", "alternate")
"""Whether a round has prompts of all tasks, or of one task, each in its turn."""


class PromptData(lightning.LightningDataModule):
    """One batch a round (a Lightning epoch) with the rows of all tasks, or of one task in turn.

    Which prompts a round uses follows from the seed and the round's number, so nothing is kept between
    rounds and a resumed run sees what an uninterrupted one sees. Each task goes through its file in a random
    order, a new one for each pass: every prompt is used once before any comes again. The global batch does
    not depend on the number of processes; each gets a contiguous share of every task's groups.

    Attributes:
        tasks: task -> its prompts and counts.
    """

    def __init__(self, *, seed: int, schedule: str, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        """Read the files.

        Args:
            seed: Of the order.
            schedule: ``accumulate``: all tasks in every round; ``alternate``: one task per round, in turn.
            tasks: task -> ``{path, prompts_per_round, group_size}``.

        Raises:
            ValueError: If the schedule is unknown, an entry is incomplete, a count is below 1, or a file
                cannot be read.
        """
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(
                f"data.schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}; accumulate = all "
                "tasks in every round, alternate = one task per round"
            )
        if not tasks:
            raise ValueError("data.tasks is empty; name at least one task, as in data=ocr")
        self.seed, self.schedule = seed, schedule
        self.tasks = {task: _task_prompts(task, settings) for task, settings in tasks.items()}

    def texts_of(self, num_rounds: int) -> list[str]:
        """The different prompts that the first so many rounds draw, over all processes."""
        drawn: dict[str, None] = {}
        for number, (task, prompts) in enumerate(self.tasks.items()):
            turns = num_rounds
            if self.schedule == "alternate":
                turns = len(range(number, num_rounds, len(self.tasks)))
            # In a pass each prompt comes once, so only the draws of the first pass count.
            count = min(turns * prompts.prompts_per_round, len(prompts.entries))
            places = self._order(task, 0, len(prompts.entries))[:count]
            drawn |= dict.fromkeys(prompts.entries[place].text for place in places)
        return list(drawn)

    def setup(self, stage: str | None = None) -> None:
        """Check that the processes can share every task's groups.

        Raises:
            ValueError: If a task's prompts do not divide among the processes.
        """
        if self.trainer is None:
            return
        processes = self.trainer.world_size
        for task, prompts in self.tasks.items():
            if prompts.prompts_per_round % processes:
                raise ValueError(
                    f"data.tasks.{task}.prompts_per_round={prompts.prompts_per_round} must be a multiple of "
                    f"the number of processes, {processes} (trainer.devices times trainer.num_nodes)"
                )

    def train_dataloader(self) -> DataLoader[Prompts]:
        """Loader of the current round's one batch, this process's share of it."""
        round_index, rank, processes = 0, 0, 1
        if self.trainer is not None:
            round_index, rank = self.trainer.current_epoch, self.trainer.global_rank
            processes = self.trainer.world_size
        return DataLoader(_Round(self.batch(round_index, rank, processes)), batch_size=None, num_workers=0)

    def transfer_batch_to_device(self, batch: Prompts, device: torch.device, dataloader_idx: int) -> Prompts:
        """Prompts stay where they are."""
        return batch

    def batch(self, round_index: int, rank: int = 0, num_processes: int = 1) -> Prompts:
        """The rows of one process in one round.

        Args:
            round_index: The round.
            rank: Number of the process.
            num_processes: How many there are; 1 gives the global batch.

        Returns:
            Rows task by task, the samples of a prompt together. ``indices`` and ``groups`` are those of
            the global batch, unique over all tasks.
        """
        parts, first_row, first_group = [], 0, 0
        turn = None
        if self.schedule == "alternate":
            round_index, turn = divmod(round_index, len(self.tasks))
        for number, (task, prompts) in enumerate(self.tasks.items()):
            share = prompts.prompts_per_round // num_processes if turn in (None, number) else 0
            entries = self._entries(task, round_index) if share else []
            for group in range(rank * share, (rank + 1) * share):
                rows = range(
                    first_row + group * prompts.group_size, first_row + (group + 1) * prompts.group_size
                )
                parts.append(_group(entries[group], rows, first_group + group))
            first_row += prompts.rows_per_round
            first_group += prompts.prompts_per_round
        return Prompts.concat(parts)

    def _entries(self, task: str, round_index: int) -> list[PromptEntry]:
        """The prompts of one task in one round."""
        prompts = self.tasks[task]
        total, orders = len(prompts.entries), dict[int, Any]()
        chosen = []
        for draw in range(prompts.prompts_per_round):
            pass_number, position = divmod(round_index * prompts.prompts_per_round + draw, total)
            if pass_number not in orders:
                orders[pass_number] = self._order(task, pass_number, total)
            chosen.append(prompts.entries[orders[pass_number][position]])
        return chosen

    def _order(self, task: str, pass_number: int, total: int) -> Any:
        """Places of a task's prompts in the order of one pass."""
        return numpy_generator(self.seed, f"prompts/{task}", pass_number).permutation(total)


class _Round(Dataset[Prompts]):
    """The one batch of a round."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Prompts:
        return self.prompts


def _group(entry: PromptEntry, rows: range, group: int) -> Prompts:
    size = len(rows)
    return Prompts(
        (entry.text,) * size, (entry.task,) * size, (entry.metadata,) * size, tuple(rows), (group,) * size
    )


def _task_prompts(task: str, settings: Mapping[str, Any]) -> TaskPrompts:
    allowed = {"path", "prompts_per_round", "group_size"}
    if set(settings) != allowed:
        raise ValueError(f"data.tasks.{task} has keys {sorted(settings)}, it needs {sorted(allowed)}")
    for key in ("prompts_per_round", "group_size"):
        value = settings[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"data.tasks.{task}.{key} must be a whole number of at least 1, got {value!r}")
    entries = read_prompts(settings["path"], task, setting=f"data.tasks.{task}.path")
    return TaskPrompts(entries, settings["prompts_per_round"], settings["group_size"])
