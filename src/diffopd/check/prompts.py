"""Have the prompts of a training what its reward needs to know of them? Answered before weights load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffopd.check.error import ConfigError
from diffopd.check.source import constant


def reward_is_asked(cfg: Mapping[str, Any]) -> bool:
    """Whether a training ever scores a picture: a student's rollouts may be left unscored.

    Args:
        cfg: The composed config, checked.
    """
    phase, routing = cfg["phase"], cfg.get("routing") or {}
    if phase.get("score_every_n_rounds", 1) or (phase.get("best_of_n") or 1) > 1:
        return True
    return constant(routing.get("_target_"), "measures") is True


def check_prompts(tasks: Any, data: Any, reward: Any) -> None:
    """Have the reward look at every prompt.

    Args:
        tasks: task -> its prompts, as a data module of prompts has them; None for others.
        data: The config's node of the data, which has their paths, for messages.
        reward: The reward; one without a method ``check_prompt`` takes any prompt. None = there is none.

    Raises:
        ConfigError: With the first line of each task that the reward cannot score, and how many more.
    """
    if reward is None or not tasks:
        return
    problems = []
    for task, prompts in tasks.items():
        refused = list(_refused(task, prompts.entries, reward))
        if refused:
            where, why = refused[0]
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            node = data["tasks"][task] if data.get("tasks") else data
            path = data["keep"]["path"] if prompts.setting == "data.keep" else node["path"]
            problems.append(f"{prompts.setting}.path={path}, {where}: {why}{more}")
    if problems:
        raise ConfigError("\n".join(problems))


def _refused(task: str, entries: Any, reward: Any) -> Iterator[tuple[str, str]]:
    """Place of each refused entry, and why."""
    from diffopd.reward.checked import check_prompt
    from diffopd.types import Prompts

    for entry in entries:
        picture = getattr(entry, "picture", None)  # of prompts that are captions
        for text in entry.texts:
            try:
                check_prompt(reward, Prompts((text,), (task,), (entry.metadata,), (0,), (0,), (picture,)))
            except ValueError as error:
                yield entry.where, str(error)
                break
