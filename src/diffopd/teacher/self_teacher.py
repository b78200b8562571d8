"""The model as its own teacher: the student's weights, told more than the student is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from diffopd.adapter import blend, blend_in_bf16
from diffopd.context import Context, told_by
from diffopd.policy import Fixed, Policy
from diffopd.teacher.target import Learner, Target
from diffopd.types import Conditioning, Prompts, VelocityFunction

TEACHER = "teacher"
"""Name of the average that teaches; it is trained by no gradient and kept in checkpoints."""
WEIGHTS = ("ema", "frozen", "live")
AVERAGES = {"fp32": blend, "bf16_as_released": blend_in_bf16}
STARTS = ("student", "base")


@final
class SelfTeacher(Target):
    """On-policy self-distillation: teacher and student differ in what they are told, and hardly in weights.

    Each row's teacher reads what ``context`` makes of the row, but of prompts that are kept no more than the
    student. Its weights are an exponential average of the student's without warm-up, moved after every
    update; or those that the student started with; or the student's own.

    Attributes:
        context: What the teacher is told.

    References:
        "D-OPSD", 2026, arXiv:2605.05204.
    """

    def __init__(
        self,
        *,
        weights: str,
        decay: int | float,
        average_dtype: str,
        start: str,
        guidance_scale: int | float,
        context: Context,
    ) -> None:
        """Keep the settings; weights come with :meth:`join`.

        Args:
            weights: ``ema``, ``frozen`` or ``live``.
            decay: Share of itself that the average keeps at each update, in [0, 1).
            average_dtype: ``fp32``, or ``bf16_as_released``: the average is rounded to bf16 at each move.
            start: What an average or frozen weights start as: ``student`` or ``base``.
            guidance_scale: Guidance of the teacher; 1 = CFG off.
            context: What the teacher is told.

        Raises:
            ValueError: If a value is not known or out of range.
        """
        for name, value, allowed in (
            ("weights", weights, WEIGHTS),
            ("average_dtype", average_dtype, tuple(AVERAGES)),
            ("start", start, STARTS),
        ):
            if value not in allowed:
                raise ValueError(f"teacher.{name}={value} must be one of {', '.join(allowed)}")
        if not 0 <= decay < 1:
            raise ValueError(f"teacher.decay={decay} must be at least 0 and less than 1")
        self.kind, self.decay, self.start = weights, float(decay), start
        self.context, self.guidance_scale = context, float(guidance_scale)
        self._move = AVERAGES[average_dtype]

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Anything fits: there are no weights to read."""

    def join(self, learner: Learner) -> None:
        """Take the weights of the learner's student, or a copy that follows them.

        Raises:
            ValueError: If the context shows pictures and the model reads none.
        """
        self._learner = learner
        if self.context.shows_target:
            learner.model.open_pictures()
        self._policy = self._network(learner)

    @property
    def network(self) -> Policy:
        """Whoever answers."""
        return self._policy

    def _network(self, learner: Learner) -> Policy:
        """Whoever is to answer."""
        if self.kind == "live":
            return learner.student
        from_base = self.start == "base" or learner.student.is_base()
        if self.kind == "frozen" and from_base:
            return Fixed(learner.model, None)  # the same, without another copy
        policy = learner.add_policy(TEACHER)
        policy.copy_from(learner.student)
        if self.start == "base":
            policy.become_base()
        if self.kind == "ema":
            learner.after_update(self._follow)
        return policy

    def _follow(self) -> None:
        """Move the average towards the student, which has just taken an update."""
        self._move(self._policy.weights(), self._learner.student.weights(), self.decay)

    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """Its velocity on what the context tells it, without gradient.

        Raises:
            ValueError: If a row lacks what the context needs.
        """
        told = self._learner.conditioning(told_by(self.context, prompts))
        return torch.no_grad()(self._policy.given(told, self.guidance_scale))
