"""Do the steps that are trained suit what is learned there?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffopd.check.chosen import target_of
from diffopd.check.error import config_errors
from diffopd.check.setting import Groups, phase_takes
from diffopd.check.source import constant


def step_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Problems with the steps that are trained; sampler and states are built for it, which brings torch."""
    if isinstance(values.get("phase"), Mapping):
        yield from _trained_steps(values)
        yield from _noise(values)


def _noise(values: Mapping[str, Any]) -> Iterator[str]:
    """A KL divergence, and a density, need noise in every transition that is trained."""
    needing = [group for group in _NEEDS_NOISE if constant(_target_at(values, group), "needs_noise")]
    if not needing or not values.get("sampler") or not phase_takes(values, "sampler"):
        return
    group = needing[0]
    with config_errors():
        sampler = instantiate(values["sampler"])
        trained = _trained(values, sampler.num_steps)
    silent = [step for step in trained if not sampler.stochastic(step)]
    if not silent:
        return
    choices = group.rpartition(".")[2]
    shown = group.replace("regulariser.loss", "loss@regulariser.loss")
    name = f"{shown}={Groups.read().choice_of(choices, _target_at(values, group))}"
    why, instead = _NEEDS_NOISE[group]
    if constant(_target_at(values, group), "supervision") == "branches":
        why, instead = "draws branches by the noise of a transition", "loss=diffusion_nft phase=nft"
    if len(silent) == len(trained):
        noisy = "sampler.noise_level=0.7"
        if type(sampler).max_noise_level == 0:
            noisy = f"sampler=flow {noisy}"
        yield (
            f"{name} {why}, but sampler.noise_level={sampler.noise_level:g} makes every transition of "
            f"{type(sampler).__name__} deterministic; choose {instead}, or {noisy}"
        )
    else:
        fewer = "states=all_but_last" if target_of(values, "states") else "phase.train_steps=all_but_last"
        yield (
            f"{name} {why}, but step {silent[0]} (counted from 0) of {type(sampler).__name__}'s "
            f"{sampler.num_steps} has none; choose {fewer}, or {instead}"
        )


_NEEDS_NOISE = {
    "estimator": (
        "weighs the density of the drawn state, which a transition without noise does not have",
        "estimator=closed_form",
    ),
    "loss": (
        "is a KL divergence, which is infinite between transitions without noise",
        "loss=opd, which uses Eq. 12 there",
    ),
    "regulariser.loss": (
        "is a KL divergence, which is infinite between transitions without noise",
        "loss@regulariser.loss=opd, which uses Eq. 12 there",
    ),
}
"""Config path of what may need noise -> why, and what to choose instead."""


def _trained(values: Mapping[str, Any], num_steps: int) -> Sequence[int]:
    """The steps that a phase may train."""
    if values.get("states") and phase_takes(values, "states"):
        return instantiate(values["states"]).steps(num_steps)
    if (weights := values["phase"].get("state_weights")) is not None:
        return [step for step, weight in enumerate(weights) if weight > 0 and step < num_steps]
    return range(num_steps - (values["phase"].get("train_steps") == "all_but_last"))


def _trained_steps(values: Mapping[str, Any]) -> Iterator[str]:
    """Something is left to train when steps are left out."""
    num_steps = (values.get("sampler") or {}).get("num_steps")
    if not isinstance(num_steps, int):
        return
    if values.get("states") and phase_takes(values, "states"):
        try:
            instantiate(values["states"]).steps(num_steps)
        except InstantiationException as error:
            yield str(error.__cause__ or error)
        except ValueError as error:
            yield str(error)
    elif values["phase"].get("train_steps") == "all_but_last" and num_steps == 1:
        yield (
            "phase.train_steps=all_but_last leaves nothing to train with sampler.num_steps=1; "
            "set phase.train_steps=all, or more steps"
        )


def _target_at(values: Mapping[str, Any], path: str) -> str:
    """Name of the class a choice builds, or a choice within a choice."""
    group, _, part = path.partition(".")
    node = values.get(group)
    return target_of(node, part) if part and isinstance(node, Mapping) else target_of(values, path)
