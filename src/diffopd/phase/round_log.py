"""The numbers of one round: sums over its parts, and means over the rows of each task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.phase.by_task import task_weights
from diffopd.types import Prompts, Scores


class RoundLog:
    """What a round logs, added up part by part; a name that is new starts at zero.

    Attributes:
        counts: Rows of each task in the whole round on this process.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        """Begin a round.

        Args:
            tasks: Task of each row of the round.
            device: Where the sums are kept, so that adding to them never waits for it.
        """
        self.counts: Mapping[str, int] = Counter(tasks)
        self._device = device
        self._values: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))

    def __getitem__(self, name: str) -> Tensor:
        """The sum so far."""
        return self._values[name]

    def add(self, name: str, value: Tensor | float) -> None:
        """Add to a sum."""
        self._values[name] = self._values[name] + value

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Note values that are whole, in the place of what was there."""
        self._values |= values

    def expect(self, names: Iterable[str]) -> None:
        """Have these names even if nothing is added: all processes have to log the same."""
        for name in names:
            self.add(name, 0)

    def shares(self, tasks: Sequence[str]) -> Float[Tensor, " batch"]:
        """Weights of some rows in the round's mean: rows are averaged within their task, then tasks."""
        return torch.tensor(task_weights(tasks, self.counts), device=self._device)

    def add_by_task(self, prefix: str, values: Float[Tensor, " batch"], tasks: Sequence[str]) -> None:
        """Add some rows' share of every task's mean to ``<prefix>/<task>``.

        Args:
            prefix: E.g. ``train/gap``.
            values: One per row.
            tasks: Task of each row.
        """
        for task in dict.fromkeys(tasks):
            self._add_share(f"{prefix}/{task}", values, tasks, task)

    def add_rewards(self, scores: Scores, prompts: Prompts) -> None:
        """Add some rows' share of every task's mean reward to ``train/reward/<task>``.

        Each part's mean goes to ``train/reward_part/<task>/<part>``, in the part's own scale, whatever a
        mixture makes of it.
        """
        self.add_by_task("train/reward", scores.value, prompts.tasks)
        for name, values in scores.parts.items():
            of_task, _, part = name.rpartition("/")
            for task in dict.fromkeys(prompts.tasks):
                if of_task in ("", task):  # a part of another task is NaN on these rows
                    self._add_share(f"train/reward_part/{task}/{part}", values, prompts.tasks, task)

    def _add_share(self, name: str, values: Tensor, tasks: Sequence[str], task: str) -> None:
        """Add the share that one task's rows have in its mean."""
        rows = [row for row, at in enumerate(tasks) if at == task]
        self.add(name, (values[rows].sum() / self.counts[task]).to(self._values[name]))

    def values(self) -> dict[str, Tensor]:
        """All sums by name."""
        return dict(self._values)
