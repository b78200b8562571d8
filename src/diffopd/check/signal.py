"""Does a run that learns from rewards have anything to compare them with?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffopd.check.prompts import reward_is_asked
from diffopd.check.setting import phase_takes
from diffopd.check.source import constant, read_target
from diffopd.check.tasks import tasks_of

LEARNS_FROM_REWARDS = ("advantage", "transition_advantage")


def signal_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Tasks whose samples have nothing to be compared with, as one sentence each.

    An advantage is a reward less the mean of those it is compared with: the samples of its prompt, or, where
    every prompt has one sample, those of its task. A phase that compares is known by what it trains on, so
    this holds for all of them. A mixture that standardizes its parts compares the samples of a prompt in
    any phase, and fails where there is one.
    """
    phase = values.get("phase")
    target = read_target(str(phase.get("_target_"))) if isinstance(phase, Mapping) else None
    if not isinstance(phase, Mapping) or target is None:
        return
    learns = target.constants.get("supervision") in LEARNS_FROM_REWARDS
    asked = phase_takes(values, "reward") and reward_is_asked(values)
    for task, at in tasks_of(values).items():
        samples, prompts = at.entry.get("group_size"), at.entry.get("prompts_per_round")
        if samples != 1:
            continue
        setting, more = f"{at.setting}.group_size=1", f"set {at.setting}.group_size to 2 or more"
        if target.constants.get("ranks_samples") is True:
            yield (
                f"{setting} leaves no signal: the best sample of a prompt is preferred to the worst, and "
                f"there is one; {more}"
            )
        elif learns and prompts == 1:
            yield (
                f"{setting} with prompts_per_round=1 leaves no signal: the round's one sample is compared "
                f"with itself, so its advantage is 0; {more}"
            )
        elif learns and phase.get("advantage_std") == "group":
            yield (
                f"{setting} with phase.advantage_std=group leaves no signal within a prompt: a sample is "
                f"compared with the others of its prompt, and there are none; {more}, or "
                "phase.advantage_std=global, which then compares the prompts of a task"
            )
        elif asked and (place := _compares_in_groups(values.get("reward"), "reward", task)):
            yield (
                f"{setting} with {place}.normalize=per_group compares a sample with the others of its "
                f"prompt, and there are none; {more}, or {place}.normalize=none"
            )


def _compares_in_groups(reward: Any, place: str, task: str) -> str | None:
    """Config path of the mixture that standardizes among a prompt's samples in a task's reward, if any."""
    if not isinstance(reward, Mapping):
        return None
    if reward.get("normalize") == "per_group":
        return place
    members = reward.get("rewards")
    by_task = constant(reward.get("_target_"), "one_per_task") is True
    for name, member in members.items() if isinstance(members, Mapping) else ():
        if (not by_task or name == task) and (
            found := _compares_in_groups(member, f"{place}.rewards.{name}", task)
        ):
            return found
    return None
