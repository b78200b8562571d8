"""Guidance of the student in its loss, where it is not that of its rollouts."""

from __future__ import annotations

import math

from diffopd.sampler import TransitionSampler


def loss_guidance(scale: int | float | None, sampler: TransitionSampler) -> float:
    """Guidance scale of the student's velocity in the loss.

    Rollouts at the model's own guidance visit the states of good samples; a student that is trained there at
    scale 1 learns to do without guidance.

    Args:
        scale: ``phase.loss_guidance_scale``; None = the rollouts'.
        sampler: Of the rollouts.

    Raises:
        ValueError: If it is not a finite number of at least 0.
    """
    if scale is None:
        return sampler.guidance_scale
    if isinstance(scale, bool) or not 0 <= scale < math.inf:
        raise ValueError(
            f"phase.loss_guidance_scale={scale} must be a finite number of at least 0; 1 = CFG off, null = "
            "sampler.guidance_scale"
        )
    return float(scale)
