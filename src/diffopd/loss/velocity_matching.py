"""The form all distillation losses share: a known weight per step times the squared velocity gap.

Student and teacher start a transition from one latent and a solver's mean is affine in the velocity, so
``student_mean - teacher_mean = coefficient * (student_velocity - teacher_velocity)``. A loss on the means is
therefore a weight, computed from the transition's coefficient and standard deviation, on the velocity gap.
The teacher's mean is never formed, and a small gap is not lost in the rounding of two large means.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import reduce_latent
from diffopd.loss.setting import checked_reduction
from diffopd.types import LossTerm, Transition


def velocity_gap(
    student_velocity: Float[Tensor, " batch *latent"],
    teacher_velocity: Float[Tensor, " batch *latent"],
    *,
    reduction: str,
) -> Float[Tensor, " batch"]:
    """Squared distance of two velocities, in float32.

    Args:
        student_velocity: Carries the gradient.
        teacher_velocity: Treated as a constant.
        reduction: ``"mean"`` or ``"sum"`` over the latent axes.

    Raises:
        ValueError: If the two differ in shape.
    """
    if student_velocity.shape != teacher_velocity.shape:
        raise ValueError(
            f"student and teacher velocity must have one shape, got {tuple(student_velocity.shape)} and "
            f"{tuple(teacher_velocity.shape)}; do both models use the same VAE and resolution?"
        )
    gap = student_velocity.float() - teacher_velocity.detach().float()
    return reduce_latent(gap.square(), reduction)


def matching_term(
    student: Transition,
    teacher_velocity: Float[Tensor, " batch *latent"],
    weight: Float[Tensor, " batch"],
    *,
    reduction: str,
) -> LossTerm:
    """``weight`` times the squared velocity gap, and what to log about it.

    Args:
        student: Transition of the model being trained.
        teacher_velocity: The teacher's velocity at the same latent; treated as a constant.
        weight: One weight per sample, a constant.
        reduction: ``"mean"`` or ``"sum"`` over the latent axes.

    Returns:
        Loss per sample. Metrics: ``velocity_gap``, the mean squared gap; ``kl_nats``, the exact KL of the
        transition summed over the latent axes, only where the transition has noise.
    """
    gap = velocity_gap(student.velocity, teacher_velocity, reduction="mean")
    size = student.velocity[0].numel()
    metrics = {"velocity_gap": gap.detach()}
    if student.stochastic:
        metrics["kl_nats"] = (student.coefficient / student.std).square() / 2 * gap.detach() * size
    return LossTerm(value=weight * (gap * size if reduction == "sum" else gap), metrics=metrics)


def mean_weight(weights: Sequence[Float[Tensor, " batch"]]) -> float:
    """Mean of the weights of the steps that are trained, as a Python number.

    Args:
        weights: One tensor for each step.

    Raises:
        ValueError: If there is no step, or the mean is not a finite number above 0.
    """
    if not weights:
        raise ValueError(
            "loss.normalize=true divides the weights by their mean over the trained steps, but no step is "
            "trained; choose phase.train_steps=all or set loss.normalize=false"
        )
    mean = torch.cat([weight.double() for weight in weights]).mean().item()
    if not 0 < mean < math.inf:
        raise ValueError(
            "loss.normalize=true divides the weights by their mean over the trained steps, which must be a "
            f"finite number above 0, got {mean}; a step without noise has an infinite KL weight: use "
            "loss=opd, leave that step untrained, or set loss.normalize=false"
        )
    return mean


def require_noise(student: Transition, loss: str) -> None:
    """Check that a transition has noise; without, the KL divergence is infinite.

    Raises:
        ValueError: If the transition's standard deviation is 0.
    """
    if not student.stochastic:
        raise ValueError(
            f"loss={loss} needs a transition with noise, but step {student.step} (counted from 0) of "
            f"{student.num_steps} has standard deviation 0, where the KL divergence is infinite; use "
            "loss=opd or loss=ode_l2, raise sampler.noise_level, or leave that step untrained"
        )


class TransitionMatching(ABC):
    """A distillation loss: what differs between them is the weight of a step.

    Attributes:
        name: How configs select the loss.
        needs_noise: Whether a deterministic sampler, or a step without noise, is an error.
        supervision: What the loss learns from.
    """

    name: ClassVar[str]
    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "teacher"

    def __init__(self, *, reduction: str, normalize: bool) -> None:
        """Check the settings.

        Args:
            reduction: ``"mean"`` or ``"sum"`` over the latent axes.
            normalize: Whether the weights are divided by their mean over the trained steps. It takes effect
                in :meth:`over`, which tells the loss what those steps are.

        Raises:
            ValueError: If ``reduction`` is neither.
        """
        self.reduction = checked_reduction(reduction)
        self.normalize = normalize
        self._scale = None if normalize else 1.0

    def over(self, transitions: Sequence[Transition]) -> TransitionMatching:
        """This loss for training on the steps of ``transitions``.

        With ``normalize`` a copy whose weights have mean 1 over them, so that one learning rate fits every
        solver, number of steps and loss; without it the loss itself. The ratios between steps do not change.

        Args:
            transitions: One transition of each step that may be trained, e.g. from
                ``sampler.grid_transitions()``. Their weights are read once, here.

        Raises:
            ValueError: If ``normalize`` is set and the mean weight is not a finite number above 0.
        """
        if not self.normalize:
            return self
        scaled = copy.copy(self)
        scaled._scale = 1 / mean_weight([self.weight(transition) for transition in transitions])
        return scaled

    @abstractmethod
    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """Weight of each sample's squared velocity gap, before it is normalized."""

    def __call__(self, student: Transition, teacher_velocity: Tensor) -> LossTerm:
        """Loss per sample; gradients reach ``student.velocity`` alone.

        Raises:
            ValueError: If the loss needs noise and the transition has none.
        """
        if self.needs_noise:
            require_noise(student, self.name)
        assert self._scale is not None, (
            "a loss with normalize=True must first be told its steps: loss.over(...)"
        )
        weight = self._scale * self.weight(student)
        return matching_term(student, teacher_velocity, weight, reduction=self.reduction)
