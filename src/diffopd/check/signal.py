"""Does a run that learns from rewards have anything to compare them with?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffopd.check.source import read_target

LEARNS_FROM_REWARDS = ("advantage", "transition_advantage")


def signal_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Tasks whose every advantage would be 0, whatever the rewards, as one sentence each.

    An advantage is a reward less the mean of those it is compared with: the samples of its prompt, or, where
    every prompt has one sample, those of its task. A phase that compares is known by what it trains on, so
    this holds for all of them.
    """
    phase = values.get("phase")
    target = read_target(str(phase.get("_target_"))) if isinstance(phase, Mapping) else None
    if (
        not isinstance(phase, Mapping)
        or target is None
        or target.constants.get("supervision") not in LEARNS_FROM_REWARDS
    ):
        return
    for task, entry in ((values.get("data") or {}).get("tasks") or {}).items():
        samples, prompts = entry.get("group_size"), entry.get("prompts_per_round")
        if samples != 1:
            continue
        setting = f"data.tasks.{task}.group_size=1"
        if prompts == 1:
            yield (
                f"{setting} with prompts_per_round=1 leaves no signal: the round's one sample is compared "
                f"with itself, so its advantage is 0; set data.tasks.{task}.group_size to 2 or more"
            )
        elif phase.get("advantage_std") == "group":
            yield (
                f"{setting} with phase.advantage_std=group leaves no signal: a sample is compared with the "
                f"others of its prompt, and there are none; set data.tasks.{task}.group_size to 2 or more, "
                "or phase.advantage_std=global, which then compares the prompts of a task"
            )
