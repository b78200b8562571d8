"""Passing over prompts whose samples all get much the same reward: they teach a policy little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

Order = Callable[[int], Sequence[int]]
"""Number of a pass to the places of a task's prompts in its order."""


@final
class PromptFilter:
    """Remembers the range of rewards in each prompt's group, and chooses the prompts that follow.

    Every task goes through its prompts pass by pass. A prompt whose group spanned less than ``min_range`` is
    passed over in the next ``skip_passes`` passes and then tried again, as the policy has changed since. What
    is chosen follows from the order and from what was observed, which a checkpoint holds.

    Args:
        min_range: Smallest difference of the largest and the smallest reward of a prompt's samples; for all
            tasks, or task -> its own, tasks that are not named having none.
        skip_passes: Passes over a task's prompts in which one that spanned less is left out, at least 1.
    """

    def __init__(self, *, min_range: float | Mapping[str, float], skip_passes: int) -> None:
        given = min_range.values() if isinstance(min_range, Mapping) else (min_range,)
        if not all(_is_number(value) and value >= 0 for value in given):
            raise ValueError(
                f"data.prompt_filter.min_range={min_range} must be a finite number of at least 0, or one for "
                "each task; null = no prompt is passed over"
            )
        if isinstance(skip_passes, bool) or not isinstance(skip_passes, int) or skip_passes < 1:
            raise ValueError(
                f"data.prompt_filter.skip_passes={skip_passes} must be a whole number of at least 1"
            )
        self.min_range, self.skip_passes = min_range, skip_passes
        self._next: dict[str, int] = {}  # task -> the draw that its next round begins with
        self._until: dict[
            str, dict[int, int]
        ] = {}  # task -> place of a prompt -> pass that may have it again

    def smallest(self, task: str) -> float:
        """The range below which a prompt of the task is passed over."""
        if isinstance(self.min_range, Mapping):
            return float(self.min_range.get(task, 0.0))
        return float(self.min_range)

    def chosen(self, task: str, count: int, total: int, order: Order, first: int) -> list[int]:
        """The draws of the task's next round, not counted as made before :meth:`observe`.

        Args:
            task: The task.
            count: Prompts of a round.
            total: Prompts of the task.
            order: Its passes.
            first: The draw to begin with if none was observed yet.

        Returns:
            Numbers of draws: draw ``n`` is prompt ``n % total`` of pass ``n // total``.
        """
        until, draws = self._until.get(task, {}), []
        draw = self._next.get(task, first)
        while len(draws) < count:
            pass_number, position = divmod(draw, total)
            if until.get(order(pass_number)[position], 0) <= pass_number:
                draws.append(draw)
            draw += 1
        return draws

    def observe(
        self,
        task: str,
        draws: Sequence[int],
        total: int,
        order: Order,
        ranges: Sequence[float],
        first: int,
    ) -> int:
        """Take note of a round.

        Args:
            task: The task.
            draws: As :meth:`chosen` gave them.
            total: Prompts of the task.
            order: Its passes.
            ranges: Range of rewards of each draw's group.
            first: As in :meth:`chosen`.

        Returns:
            How many prompts were passed over to choose these.
        """
        passed_over = draws[-1] + 1 - self._next.get(task, first) - len(draws)
        self._next[task] = draws[-1] + 1
        until = self._until.setdefault(task, {})
        for draw, found in zip(draws, ranges, strict=True):
            pass_number, position = divmod(draw, total)
            place = int(order(pass_number)[position])
            until.pop(place, None)
            if found < self.smallest(task):
                until[place] = pass_number + self.skip_passes + 1
        return passed_over

    def state_dict(self) -> dict[str, Any]:
        """What was observed, as JSON can hold it."""
        resting = {task: sorted(places.items()) for task, places in self._until.items()}
        return {
            "next": dict(self._next),
            "until": {task: [list(pair) for pair in pairs] for task, pairs in resting.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        self._next = {task: int(draw) for task, draw in state["next"].items()}
        self._until = {
            task: {int(place): int(end) for place, end in pairs} for task, pairs in state["until"].items()
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def reward_ranges(
    rewards: Sequence[float], groups: Sequence[int], tasks: Sequence[str]
) -> dict[str, dict[int, float]]:
    """Difference of the largest and the smallest reward of each group.

    Args:
        rewards: One per sample.
        groups: Group of each.
        tasks: Task of each.

    Returns:
        Task -> group -> its range.

    Examples:
        >>> reward_ranges([0.1, 0.6, 1.0, 1.0], [0, 0, 1, 1], ["ocr"] * 4)
        {'ocr': {0: 0.5, 1: 0.0}}
    """
    found: dict[str, dict[int, list[float]]] = {}
    for reward, group, task in zip(rewards, groups, tasks, strict=True):
        found.setdefault(task, {}).setdefault(group, []).append(reward)
    return {
        task: {group: max(values) - min(values) for group, values in of_task.items()}
        for task, of_task in found.items()
    }
