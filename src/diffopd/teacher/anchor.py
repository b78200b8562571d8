"""Regularization towards one more frozen model, on every sample: Flow-OPD's manifold anchor."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.policy import Fixed
from diffopd.teacher.card import card_or_guidance
from diffopd.teacher.frozen import AdaptedModel, check_base_of, check_frozen, load_frozen
from diffopd.teacher.target import Learner, Target
from diffopd.types import Conditioning, Prompts, Transition, VelocityFunction

ANCHOR = "anchor"
"""Name of the anchor's adapter on the model."""


class Regulariser(Target):
    """A term beside the distillation loss, the same for all tasks.

    Attributes:
        weight: What the term is multiplied by; at 0 the caller asks for nothing.
    """

    weight: float

    @abstractmethod
    def over(self, transitions: Sequence[Transition]) -> Regulariser:
        """The same for training on the steps of ``transitions``."""

    @abstractmethod
    def __call__(
        self, student: Transition, velocity: Float[Tensor, " batch *latent"]
    ) -> Float[Tensor, " batch"]:
        """The term per row, before its weight."""


@final
class NoAnchor(Regulariser):
    """No such term: nothing is loaded or computed."""

    weight: float = 0.0

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Anything fits."""

    def join(self, learner: Learner) -> None:
        """Add nothing."""

    def over(self, transitions: Sequence[Transition]) -> NoAnchor:
        """Itself."""
        return self

    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """Zeros."""
        return lambda latent, sigma: torch.zeros_like(latent)

    def __call__(
        self, student: Transition, velocity: Float[Tensor, " batch *latent"]
    ) -> Float[Tensor, " batch"]:
        """Zeros."""
        return torch.zeros_like(student.sigma)


@final
class Anchor(Regulariser):
    """Adds ``weight * loss(student, anchor)`` on the rows of all tasks.

    Attributes:
        path: Where the anchor's weights lie; None for the base model.
        guidance_scale: Guidance at which it is queried.
        loss: Weight of a step's squared velocity gap to it.

    References:
        "Flow-OPD", 2026, arXiv:2605.08063: the manifold anchor regulariser. Its paper writes
        ``w(t) |v - v_anchor|^2``; its code takes ``reverse_kl_released`` with weight 0.04.
    """

    def __init__(
        self,
        *,
        path: str | None,
        guidance_scale: int | float | None,
        check_base: bool,
        weight: int | float,
        loss: TransitionMatching,
    ) -> None:
        """Read the card, where there is one; weights wait for :meth:`load`.

        Args:
            path: A LoRA or a whole transformer, as for a teacher; null for the base model.
            guidance_scale: Guidance of the anchor; null for what its card says.
            check_base: Refuse an anchor whose card names another base model.
            weight: Weight of the term, above 0.
            loss: Its form.

        Raises:
            ValueError: If a value makes no sense, or the card is missing.
        """
        if not isinstance(loss, TransitionMatching):
            raise ValueError(
                f"regulariser.loss={type(loss).__name__} compares no transitions; choose one that "
                "phase=distill takes, such as loss@regulariser.loss=opd"
            )
        if not 0 < weight < math.inf:
            raise ValueError(
                f"regulariser.weight={weight} must be a finite number above 0; for no anchor, "
                "set regulariser=none"
            )
        if guidance_scale is None and path is None:
            raise ValueError(
                "regulariser.guidance_scale is null, but the base model has no card.json to take it from; "
                "set regulariser.guidance_scale"
            )
        if guidance_scale is not None and not 1 <= guidance_scale < math.inf:
            raise ValueError(f"regulariser.guidance_scale={guidance_scale}; at least 1 is allowed, or null")
        self.path = path
        self.weight = float(weight)
        self.loss = loss
        self.check_base = check_base
        self.card, scale = None, guidance_scale
        if path is not None:
            self.card, scale = card_or_guidance(
                path, guidance_scale, setting="regulariser.path", guidance="regulariser.guidance_scale"
            )
        assert scale is not None
        self.guidance_scale = float(scale)

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Compare the anchor's rank and layers with the backbone.

        Args:
            base_config: The transformer's ``config.json``.

        Raises:
            ValueError: If it does not fit.
        """
        if self.path is not None:
            check_frozen(self.path, base_config, setting="regulariser.path")

    def load(self, model: AdaptedModel) -> None:
        """Add the anchor to ``model``, frozen, unless it is the base model.

        Raises:
            ValueError: If it does not fit, or was trained on another base and ``check_base`` is on.
        """
        if self.path is None:
            return
        if self.check_base:
            given = f"regulariser.path={self.path}"
            check_base_of(self.card, model, given, "regulariser.check_base")
        load_frozen(model, ANCHOR, self.path, setting="regulariser.path")

    def over(self, transitions: Sequence[Transition]) -> Anchor:
        """The same with a loss that knows its steps, which one with ``normalize`` must.

        Args:
            transitions: One of each step that may be trained.
        """
        told = copy.copy(self)
        told.loss = self.loss.over(transitions)
        return told

    def join(self, learner: Learner) -> None:
        """Add the anchor to the learner's model."""
        self.load(learner.model)
        self._policy = Fixed(learner.model, None if self.path is None else ANCHOR)

    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """The anchor's velocity at its guidance, on what the student is told."""
        return torch.no_grad()(self._policy.given(conditioning, self.guidance_scale))

    def __call__(
        self, student: Transition, velocity: Float[Tensor, " batch *latent"]
    ) -> Float[Tensor, " batch"]:
        """The loss per row; gradients reach ``student.velocity`` alone.

        Args:
            student: The transition.
            velocity: The anchor's velocity at its latent.
        """
        return self.loss(student, velocity).value
