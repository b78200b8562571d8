"""Does a training leave out the end of the rollout where that end is a full step?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.utils import instantiate

from diffopd.check.setting import phase_takes
from diffopd.doctor.finding import Finding, Level

ALMOST_EMPTY = 0.05
"""Most noise at the start of a last step that changes little: 0.0089 on Stable Diffusion 3's grid."""


def last_step_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the steps that are trained, and the noise in the last one, with the grid.

    Args:
        values: The composed config as plain values, checked.
    """
    if not values.get("sampler") or not phase_takes(values, "sampler"):
        return
    sampler = instantiate(values["sampler"])
    *_, last, _ = sampler.sigmas().tolist()
    step = sampler.num_steps - 1
    if last <= ALMOST_EMPTY or step == 0:
        return
    end = f"step {step} (counted from 0) goes from sigma {last:.2f} to 0"
    states, train_steps = values.get("states"), values["phase"].get("train_steps")
    if states and phase_takes(values, "states"):
        if step not in instantiate(states).steps(sampler.num_steps):
            yield Finding(
                Level.WARNING,
                "steps",
                f"states.last={states['last']} leaves the end of the rollout untrained, which is a full step "
                f"on this model's grid: {end}; choose states=all",
            )
    elif train_steps == "all_but_last":
        yield Finding(
            Level.WARNING,
            "steps",
            f"phase.train_steps=all_but_last leaves the end of the rollout untrained, which is a full step "
            f"on this model's grid: {end}; set phase.train_steps=all, with sampler=cps or sampler=ddim where "
            "there is noise",
        )
    window = (values["phase"].get("noise_window") or {}).get("size")
    if sampler.stochastic(step) and window is None:
        yield Finding(
            Level.WARNING,
            "steps",
            f"sampler.noise_level={sampler.noise_level:g} leaves noise in the pictures, as {end}; choose "
            "sampler=cps or sampler=ddim, or keep noise to the first steps with phase.noise_window.size=3",
        )
