"""States of off-policy distillation: another model's rollout, or noised samples or pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffopd.flow import interpolate
from diffopd.phase.examples import encoded_pictures
from diffopd.phase.micro_batch import MicroBatch
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.sampler import TransitionSampler
from diffopd.types import Transition, VelocityFunction

ON_POLICY, PICTURES, TEACHER = "rollout", "pictures", "teacher"
TEACHER_SAMPLES, BASE_SAMPLES = "teacher_samples", "base_samples"
STATES_FROM = (ON_POLICY, PICTURES, TEACHER, TEACHER_SAMPLES, BASE_SAMPLES)
"""Values of ``phase.states_from``."""


def off_policy_states(
    phase: PolicyPhase, sampler: TransitionSampler, rows: MicroBatch, steps: Sequence[int], states_from: str
) -> Iterator[Transition]:
    """The student's transitions at states that are not of its own rollout, one for each of ``steps``.

    Args:
        phase: Has the student and the model; each of the student's velocities is asked under the caller's
            grad mode, all others without gradient.
        sampler: Has the levels, and what a step from them is; it must need no history.
        rows: The rows; their target is who teaches them.
        steps: Positions in the grid, rising.
        states_from: One of ``STATES_FROM`` but the first.
    """
    if states_from == TEACHER:
        return visited_states(phase, sampler, rows, steps, rows.target)
    return noised_states(phase, sampler, rows, steps, _clean(phase, sampler, rows, states_from))


def visited_states(
    phase: PolicyPhase,
    sampler: TransitionSampler,
    rows: MicroBatch,
    steps: Sequence[int],
    velocity: VelocityFunction,
) -> Iterator[Transition]:
    """The student's transitions at the states of another model's rollout, which ends at the last of them.

    It starts from the noise that the student's own rollout would start from.
    """
    rollout = _rollout(phase, sampler, rows, velocity)
    for step in range(steps[-1] + 1):
        with torch.no_grad():
            visited = next(rollout)
        if step in steps:
            yield from _at(phase, sampler, rows, step, visited.latent)


def noised_states(
    phase: PolicyPhase, sampler: TransitionSampler, rows: MicroBatch, steps: Sequence[int], clean: Tensor
) -> Iterator[Transition]:
    """The student's transitions at clean latents, noised to the levels of the sampler's grid.

    A level's state is ``(1 - sigma) * clean + sigma * noise`` with noise of its own. At sigma 1 it is where a
    rollout starts; below, it is one that the student may never visit itself.
    """
    for step in steps:
        noise = phase.noise(f"off_policy/step/{step}", rows.prompts)
        yield from _at(phase, sampler, rows, step, interpolate(clean, noise, sampler.sigma_at(step, clean)))


class LastAnswer:
    """A velocity function that is not computed twice in a row at one state.

    A teacher that was rolled out has answered at the state that the student is to learn at.

    Args:
        velocity: The function, without gradient.
    """

    def __init__(self, velocity: VelocityFunction) -> None:
        self._velocity = velocity
        self._last: tuple[Tensor, Tensor] | None = None  # the state is held, so that its memory is no other's

    def __call__(self, latent: Tensor, sigma: Tensor) -> Tensor:
        """The velocity at states; a step's states are one tensor, of one sigma."""
        if self._last is None or not latent.is_set_to(self._last[0]):
            self._last = (latent, self._velocity(latent, sigma))
        return self._last[1]


def _clean(phase: PolicyPhase, sampler: TransitionSampler, rows: MicroBatch, states_from: str) -> Tensor:
    """The rows' own pictures, or finished samples of their teacher or of the base model."""
    if states_from == PICTURES:
        return encoded_pictures(phase, rows.prompts.targets)
    of_base = phase.base.given(rows.conditioning, sampler.guidance_scale)
    drawer = rows.target if states_from == TEACHER_SAMPLES else of_base
    with torch.no_grad():
        *_, last = _rollout(phase, sampler, rows, drawer)
    return last.next_latent


def _rollout(
    phase: PolicyPhase, sampler: TransitionSampler, rows: MicroBatch, velocity: VelocityFunction
) -> Iterator[Transition]:
    def fresh_noise(step: int) -> Tensor:
        return phase.noise(f"rollout/step/{step}", rows.prompts)

    return sampler.rollout(velocity, phase.noise("rollout/start", rows.prompts), fresh_noise)


def _at(
    phase: PolicyPhase, sampler: TransitionSampler, rows: MicroBatch, step: int, latent: Tensor
) -> Iterator[Transition]:
    """The student's transition at some states, which holds its activations until the next is asked for."""
    student = phase.student.given(rows.conditioning, sampler.guidance_scale)
    velocity = student(latent, sampler.sigma_at(step, latent))
    action = phase.noise(f"off_policy/action/{step}", rows.prompts) if sampler.stochastic(step) else None
    transition = sampler.transition(step, latent, velocity, noise=action)
    del velocity
    yield transition
    del transition  # and with it the step's activations
