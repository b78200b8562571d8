"""States of off-policy distillation: noised pictures in place of the student's rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffopd.flow import interpolate
from diffopd.phase.examples import encoded_pictures
from diffopd.phase.micro_batch import MicroBatch
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.sampler import TransitionSampler
from diffopd.types import Transition


def noised_pictures(
    phase: PolicyPhase, sampler: TransitionSampler, rows: MicroBatch, steps: Sequence[int]
) -> Iterator[Transition]:
    """The student's transitions at the rows' own pictures, noised to the levels of the sampler's grid.

    A level's state is ``(1 - sigma) * clean + sigma * noise`` with noise of its own. At sigma 1 it is where a
    rollout starts; below, it is one that the student may never visit itself.

    Args:
        phase: Has the student and the model; each velocity is asked under the caller's grad mode.
        sampler: Has the levels, and what a step from them is; it must need no history.
        rows: Have pictures.
        steps: Positions in the grid.
    """
    clean = encoded_pictures(phase, rows.prompts.targets)
    student = phase.student.given(rows.conditioning, sampler.guidance_scale)
    for step in steps:
        sigma = sampler.sigma_at(step, clean)
        latent = interpolate(clean, phase.noise(f"off_policy/step/{step}", rows.prompts), sigma)
        action = phase.noise(f"off_policy/action/{step}", rows.prompts) if sampler.stochastic(step) else None
        transition = sampler.transition(step, latent, student(latent, sigma), noise=action)
        yield transition
        del transition  # and with it the step's activations
