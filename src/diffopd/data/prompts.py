"""Prompts for phases that sample: the prompt files of one or more tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from diffopd.data.prompt_files import PromptEntry, read_prompts
from diffopd.data.prompt_filter import PromptFilter
from diffopd.data.rounds import RoundData, TaskPrompts, check_count
from diffopd.types import Prompts

SCHEDULES = ("accumulate", "alternate")
"""Whether a round has prompts of all tasks, or of one task, each in its turn."""


@final
class PromptData(RoundData):
    """Rounds of prompts, with the reference pictures that their file names.

    Args:
        seed: Of the order.
        schedule: ``accumulate``: all tasks in every round; ``alternate``: one task per round, in turn.
        tasks: task -> ``{path, prompts_per_round, group_size}``.
        prompt_filter: ``min_range`` and ``skip_passes`` of a
            :class:`~diffopd.data.prompt_filter.PromptFilter`; none if ``min_range`` is None.

    Attributes:
        tasks: task -> its prompts and counts.

    Raises:
        ValueError: If the schedule is unknown, an entry is incomplete, a count is below 1, or a file cannot
            be read.
    """

    def __init__(
        self,
        *,
        seed: int,
        schedule: str,
        tasks: Mapping[str, Mapping[str, Any]],
        prompt_filter: Mapping[str, Any] | None = None,  # not in the configs that earlier runs saved
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(
                f"data.schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}; accumulate = all "
                "tasks in every round, alternate = one task per round"
            )
        if not tasks:
            raise ValueError("data.tasks is empty; name at least one task, as in data=ocr")
        read = {task: _task_prompts(task, settings) for task, settings in tasks.items()}
        filtering = None
        if prompt_filter is not None and prompt_filter["min_range"] is not None:
            filtering = PromptFilter(**prompt_filter)
        super().__init__(seed, read, alternate=schedule == "alternate", prompt_filter=filtering)

    def rows(self, entry: PromptEntry, task: str, indices: range, group: int, round_index: int) -> Prompts:
        """The prompt, as often as there are rows."""
        return prompt_rows(entry, task, indices, group)


def prompt_rows(entry: PromptEntry, task: str, indices: range, group: int) -> Prompts:
    """Rows of one prompt, each with its global sample index."""
    size = len(indices)
    return Prompts(
        (entry.text,) * size,
        (task,) * size,
        (entry.metadata,) * size,
        tuple(indices),
        (group,) * size,
        references=(entry.references,) * size,
    )


def _task_prompts(task: str, settings: Mapping[str, Any]) -> TaskPrompts:
    place, allowed = f"data.tasks.{task}", {"path", "prompts_per_round", "group_size"}
    if set(settings) != allowed:
        raise ValueError(f"{place} has keys {sorted(settings)}, it needs {sorted(allowed)}")
    counts = [check_count(f"{place}.{key}", settings[key]) for key in ("prompts_per_round", "group_size")]
    entries = read_prompts(settings["path"], task, setting=f"{place}.path")
    return TaskPrompts(place, entries, *counts)
