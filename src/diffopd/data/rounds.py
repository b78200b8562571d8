"""One batch of prompts a round, decided by the round's number alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from diffopd.data.prompt_filter import Order, PromptFilter
from diffopd.randomness import numpy_generator
from diffopd.types import Prompts


class Entry(Protocol):
    """What a task is made of: a prompt, or a picture with its captions."""

    @property
    def texts(self) -> Sequence[str]:
        """Every text that its rows may have."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What rewards may need to know of it."""
        ...

    @property
    def where(self) -> str:
        """Its place in what was read, for messages."""
        ...


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of one task and how many a round takes.

    Attributes:
        setting: Where the config has them, e.g. ``data.tasks.ocr``.
        entries: All its prompts.
        prompts_per_round: Different prompts in a round.
        group_size: Samples of each.
    """

    setting: str
    entries: Sequence[Entry]
    prompts_per_round: int
    group_size: int

    @property
    def rows_per_round(self) -> int:
        """Samples of this task in a round."""
        return self.prompts_per_round * self.group_size


class RoundData(lightning.LightningDataModule, ABC):
    """One batch a round (a Lightning epoch) with the rows of all tasks, or of one task in turn.

    What a round uses follows from the seed and the round's number, so nothing is kept between rounds and a
    resumed run sees what an uninterrupted one sees; with a filter it follows from the seed and the rewards
    seen so far, which checkpoints hold. Each task goes through its entries in a random order, a
    new one for each pass: every entry is used once before any comes again. The global batch does not depend
    on the number of processes; each gets a contiguous share of every task's groups.

    Args:
        seed: Of the order.
        tasks: task -> its entries and counts.
        alternate: One task per round, in turn, instead of all.
        prompt_filter: Passes over prompts whose rewards span little; None for none.
    """

    def __init__(
        self,
        seed: int,
        tasks: Mapping[str, TaskPrompts],
        *,
        alternate: bool = False,
        prompt_filter: PromptFilter | None = None,
    ) -> None:
        super().__init__()
        self.seed, self.tasks, self.alternate = seed, tasks, alternate
        self.prompt_filter = prompt_filter

    @abstractmethod
    def rows(self, entry: Any, task: str, indices: range, group: int, round_index: int) -> Prompts:
        """The rows of one entry in one round.

        Args:
            entry: One of the task's.
            task: The task.
            indices: Global sample index of each row.
            group: Number of the group that the rows form.
            round_index: The round, among those of this task.
        """

    def texts_of(self, num_rounds: int) -> list[str]:
        """The different texts that the first so many rounds draw, over all processes.

        Where one of an entry's texts is drawn for a row, these are all of them. With a filter nobody knows
        which it will be, and these are the texts of all entries.
        """
        drawn: dict[str, None] = {}
        if self.prompt_filter is not None:
            entries = [entry for prompts in self.tasks.values() for entry in prompts.entries]
            return list(dict.fromkeys(text for entry in entries for text in entry.texts))
        for number, (task, prompts) in enumerate(self.tasks.items()):
            turns = len(range(number, num_rounds, len(self.tasks))) if self.alternate else num_rounds
            # In a pass each entry comes once, so only the draws of the first pass count.
            count = min(turns * prompts.prompts_per_round, len(prompts.entries))
            for place in self._order(task, 0, len(prompts.entries))[:count]:
                drawn |= dict.fromkeys(prompts.entries[place].texts)
        return list(drawn)

    def setup(self, stage: str | None = None) -> None:
        """Check that the processes can share every task's groups.

        Raises:
            ValueError: If a task's prompts do not divide among the processes.
        """
        if self.trainer is None:
            return
        processes = self.trainer.world_size
        for prompts in self.tasks.values():
            if prompts.prompts_per_round % processes:
                raise ValueError(
                    f"{prompts.setting}.prompts_per_round={prompts.prompts_per_round} must be a multiple of "
                    f"the number of processes, {processes} (trainer.devices times trainer.num_nodes)"
                )

    def train_dataloader(self) -> DataLoader[Prompts]:
        """Loader of the current round's one batch, this process's share of it."""
        return DataLoader(_Round(self.batch(*round_in_progress(self))), batch_size=None, num_workers=0)

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
        if self.alternate:
            round_index, turn = divmod(round_index, len(self.tasks))
        for number, (task, prompts) in enumerate(self.tasks.items()):
            share = prompts.prompts_per_round // num_processes if turn in (None, number) else 0
            entries = self._entries(task, round_index) if share else []
            for group in range(rank * share, (rank + 1) * share):
                indices = range(
                    first_row + group * prompts.group_size, first_row + (group + 1) * prompts.group_size
                )
                parts.append(self.rows(entries[group], task, indices, first_group + group, round_index))
            first_row += prompts.rows_per_round
            first_group += prompts.prompts_per_round
        return Prompts.concat(parts)

    def _entries(self, task: str, round_index: int) -> list[Entry]:
        """The entries of one task in one round."""
        prompts, passes = self.tasks[task], self._passes(task)
        places = [divmod(draw, len(prompts.entries)) for draw in self._draws(task, round_index)]
        return [prompts.entries[passes(number)[position]] for number, position in places]

    def _draws(self, task: str, round_index: int) -> Sequence[int]:
        """Numbers of the task's draws in one round, through its passes."""
        prompts = self.tasks[task]
        count = prompts.prompts_per_round
        first = round_index * count
        if self.prompt_filter is None:
            return range(first, first + count)
        return self.prompt_filter.chosen(task, count, len(prompts.entries), self._passes(task), first)

    def observe(self, round_index: int, ranges: Mapping[str, Mapping[int, float]]) -> dict[str, int]:
        """Tell the filter, if there is one, how far the rewards of the round's groups spanned.

        Args:
            round_index: The round, as in :meth:`batch`.
            ranges: Task -> group -> largest less smallest reward, over all processes.

        Returns:
            Task -> prompts that were passed over to choose this round's.
        """
        passed_over, first_group = {}, 0
        if self.alternate:
            round_index //= len(self.tasks)
        for task, prompts in self.tasks.items():
            groups = range(first_group, first_group + prompts.prompts_per_round)
            first_group += prompts.prompts_per_round
            if self.prompt_filter is not None and task in ranges:
                draws, found = self._draws(task, round_index), [ranges[task][group] for group in groups]
                passed_over[task] = self.prompt_filter.observe(
                    task, draws, len(prompts.entries), self._passes(task), found, round_index * len(groups)
                )
        return passed_over

    def state_dict(self) -> dict[str, Any]:
        """What the filter has seen."""
        return {} if self.prompt_filter is None else self.prompt_filter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        if self.prompt_filter is not None:
            self.prompt_filter.load_state_dict(state_dict)

    def _passes(self, task: str) -> Order:
        """Number of a pass to its order, each computed once."""
        orders: dict[int, Any] = {}

        def order(number: int) -> Any:
            if number not in orders:
                orders[number] = self._order(task, number, len(self.tasks[task].entries))
            return orders[number]

        return order

    def _order(self, task: str, pass_number: int, total: int) -> Any:
        """Places of a task's entries in the order of one pass."""
        return numpy_generator(self.seed, f"prompts/{task}", pass_number).permutation(total)


class _Round(Dataset[Prompts]):
    """The one batch of a round."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Prompts:
        return self.prompts


def round_in_progress(data: lightning.LightningDataModule) -> tuple[int, int, int]:
    """The round that a data module's trainer is in, the number of its process, and how many there are.

    Without a trainer that is the first round, in one process.
    """
    trainer = data.trainer
    return (0, 0, 1) if trainer is None else (trainer.current_epoch, trainer.global_rank, trainer.world_size)


def check_count(setting: str, value: Any) -> int:
    """A number of prompts or samples.

    Raises:
        ValueError: If it is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{setting} must be a whole number of at least 1, got {value!r}")
    return value
