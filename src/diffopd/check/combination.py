"""Do the choices of a training go together?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.utils import instantiate

from diffopd.check.error import config_errors
from diffopd.check.setting import Groups, phase_takes
from diffopd.check.source import read_target


def combination_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Choices that are sound on their own and not together, as one sentence each."""
    if not isinstance(values.get("phase"), Mapping):
        return
    yield from _loss_and_sampler(values)
    yield from _trained_steps(values)
    yield from _timesteps(values)
    yield from _tasks(values)
    yield from _processes(values)


def loss_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """A loss learns from what its phase has to offer."""
    phase, loss = _target(values, "phase"), _target(values, "loss")
    offered, needed = _constant(phase, "supervision"), _constant(loss, "supervision")
    if offered and needed and offered != needed:
        groups = Groups.read()
        fitting = {
            "teacher": "choose loss=opd",
            "advantage": "choose loss=diffusion_nft",
            "transition_advantage": "choose loss=flow_grpo or loss=grpo_guard",
        }
        yield (
            f"loss={groups.choice_of('loss', loss)} learns from {_SOURCES.get(needed, needed)}, but "
            f"phase={groups.choice_of('phase', phase)} trains on {_SOURCES.get(offered, offered)}; "
            f"{fitting.get(offered, 'choose another loss or phase')}"
        )


_SOURCES = {
    "teacher": "a teacher's velocities",
    "advantage": "advantages of rewards",
    "transition_advantage": "advantages of visited transitions",
    "data": "data",
}


def _loss_and_sampler(values: Mapping[str, Any]) -> Iterator[str]:
    """A KL divergence needs noise in every transition that is trained."""
    loss, node = _target(values, "loss"), values.get("sampler")
    if not node or not _constant(loss, "needs_noise"):
        return
    if not phase_takes(values, "sampler"):
        return
    with config_errors():
        sampler = instantiate(node)
    trained = range(sampler.num_steps - (values["phase"].get("train_steps") == "all_but_last"))
    silent = [step for step in trained if not sampler.stochastic(step)]
    if not silent:
        return
    name = Groups.read().choice_of("loss", loss)
    if len(silent) == len(trained):
        noisy = "sampler.noise_level=0.7"
        if type(sampler).max_noise_level == 0:
            noisy = f"sampler=flow {noisy}"
        yield (
            f"loss={name} is a KL divergence, which is infinite between transitions without noise, but "
            f"sampler.noise_level={sampler.noise_level:g} makes every transition of {type(sampler).__name__} "
            f"deterministic; choose loss=opd, which uses Eq. 12 there, or {noisy}"
        )
    else:
        yield (
            f"loss={name} is a KL divergence, which is infinite between transitions without noise, but step "
            f"{silent[0]} (counted from 0) of {type(sampler).__name__}'s {sampler.num_steps} has none; "
            "choose phase.train_steps=all_but_last, or loss=opd, which uses Eq. 12 there"
        )


def _trained_steps(values: Mapping[str, Any]) -> Iterator[str]:
    """Something is left to train when the last step is not."""
    num_steps = (values.get("sampler") or {}).get("num_steps")
    if values["phase"].get("train_steps") == "all_but_last" and num_steps == 1:
        yield (
            "phase.train_steps=all_but_last leaves nothing to train with sampler.num_steps=1; "
            "set phase.train_steps=all, or more steps"
        )


def _timesteps(values: Mapping[str, Any]) -> Iterator[str]:
    """The noise levels of a round are shared among its updates."""
    phase, sampler = values["phase"], values.get("sampler") or {}
    updates, num_steps = phase.get("updates_per_round"), sampler.get("num_steps")
    if "num_timesteps" not in phase:
        return
    if not isinstance(updates, int) or not isinstance(num_steps, int) or updates < 1:
        return
    number = phase.get("num_timesteps")
    used = num_steps - 1 if number is None else number
    if not 1 <= used < num_steps:
        yield (
            f"phase.num_timesteps={used} must be from 1 to sampler.num_steps - 1 = {num_steps - 1}, "
            "as the grid's last level is not trained"
        )
    elif used % updates:
        chosen = used if number is not None else f"null, that is sampler.num_steps - 1 = {used},"
        yield f"phase.num_timesteps={chosen} must be a multiple of phase.updates_per_round={updates}"


def _tasks(values: Mapping[str, Any]) -> Iterator[str]:
    """Every task of the data has its teacher and its reward."""
    tasks = (values.get("data") or {}).get("tasks") or {}
    teachers = (values.get("teacher") or {}).get("teachers")
    rewards = (values.get("reward") or {}).get("rewards")
    by_task = _target(values, "reward").endswith(".RewardByTask")
    for task in tasks:
        if phase_takes(values, "teacher") and isinstance(teachers, Mapping) and task not in teachers:
            yield (
                f"data.tasks has {task}, for which there is no teacher; teacher.teachers has "
                f"{', '.join(teachers)}. Add teacher.teachers.{task}, "
                f"or remove the task with ~data.tasks.{task}"
            )
        if phase_takes(values, "reward") and by_task and isinstance(rewards, Mapping) and task not in rewards:
            yield (
                f"data.tasks has {task}, for which there is no reward; reward.rewards has "
                f"{', '.join(rewards)}. Add reward.rewards.{task}, or remove the task with ~data.tasks.{task}"
            )


def _processes(values: Mapping[str, Any]) -> Iterator[str]:
    """Processes take equal shares of a round."""
    trainer = values.get("trainer") or {}
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if not isinstance(devices, int) or not isinstance(nodes, int) or devices < 1:
        return
    for task, entry in ((values.get("data") or {}).get("tasks") or {}).items():
        number = entry.get("prompts_per_round")
        if isinstance(number, int) and number % (devices * nodes):
            yield (
                f"data.tasks.{task}.prompts_per_round={number} must be a multiple of the number of "
                f"processes, trainer.devices={devices} times {nodes} node{'s' * (nodes > 1)}"
            )


def _target(values: Mapping[str, Any], group: str) -> str:
    """Name of the class a group's choice builds, empty if there is none."""
    node = values.get(group)
    return str(node.get("_target_", "")) if isinstance(node, Mapping) else ""


def _constant(dotted: str, name: str) -> Any:
    target = read_target(dotted)
    return target.constants.get(name) if target else None
