"""The tasks of a training's data, wherever its config has their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskSettings:
    """The settings of one task.

    Attributes:
        setting: Their place in the config: ``data.tasks.ocr``, or ``data`` where there is only one task.
        entry: They themselves, ``path``, ``prompts_per_round`` and ``group_size`` among them.
        named_by: Setting that has the task's name, for messages.
        remove: What removes the task, for messages; empty if nothing does.
    """

    setting: str
    entry: Mapping[str, Any]
    named_by: str
    remove: str


def tasks_of(values: Mapping[str, Any]) -> dict[str, TaskSettings]:
    """Task -> its settings; none for data that are no prompts.

    Args:
        values: The composed config as plain values.

    Examples:
        >>> list(tasks_of({"data": {"task": "pictures", "prompts_per_round": 4}}))
        ['pictures']
    """
    data = values.get("data")
    if not isinstance(data, Mapping):
        return {}
    if isinstance(tasks := data.get("tasks"), Mapping):
        return {
            str(task): TaskSettings(
                f"data.tasks.{task}", entry, "data.tasks", f", or remove the task with ~data.tasks.{task}"
            )
            for task, entry in tasks.items()
            if isinstance(entry, Mapping)
        }
    if "prompts_per_round" in data and isinstance(data.get("task"), str):
        found = {
            data["task"]: TaskSettings("data", data, "data.task", ", or rename the task with data.task=...")
        }
        keep = data.get("keep")
        if isinstance(keep, Mapping) and keep.get("path"):
            entry = {**keep, "group_size": data.get("group_size")}
            found["kept"] = TaskSettings("data.keep", entry, "data.keep", ", or set data.keep.path=null")
        return found
    return {}
