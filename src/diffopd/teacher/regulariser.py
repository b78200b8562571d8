"""Terms beside the loss, the same for all tasks: their interface, and what is towards a frozen model."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.policy import Fixed
from diffopd.teacher.card import card_or_guidance
from diffopd.teacher.frozen import AdaptedModel, check_base_of, check_frozen, load_frozen
from diffopd.teacher.target import Learner, Target
from diffopd.types import Conditioning, Prompts, Transition, VelocityFunction

ANCHOR = "anchor"
"""Name of the frozen model's adapter."""


class Regulariser(Target):
    """A term beside the distillation loss, the same for all tasks.

    Attributes:
        weight: What the term is multiplied by; at 0 the caller asks for nothing.
    """

    weight: float

    @abstractmethod
    def over(self, transitions: Sequence[Transition]) -> Regulariser:
        """The same for training on the steps of ``transitions``."""


class StateRegulariser(Regulariser):
    """One that compares velocities at the student's state."""

    @abstractmethod
    def __call__(
        self, student: Transition, velocity: Float[Tensor, " batch *latent"]
    ) -> Float[Tensor, " batch"]:
        """The term per row, before its weight."""


@final
class NoAnchor(StateRegulariser):
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


class FrozenRegulariser(Regulariser):
    """One towards a frozen model: a LoRA, a whole transformer or the base model.

    Attributes:
        path: Where its weights lie; None for the base model.
        guidance_scale: Guidance at which it is queried.
    """

    def __init__(
        self,
        *,
        path: str | None,
        guidance_scale: int | float | None,
        check_base: bool,
        weight: int | float,
    ) -> None:
        """Read the card, where there is one; weights wait for :meth:`join`.

        Args:
            path: A LoRA or a whole transformer, as for a teacher; null for the base model.
            guidance_scale: Guidance of the frozen model; null for what its card says.
            check_base: Refuse weights whose card names another base model.
            weight: Weight of the term, above 0.

        Raises:
            ValueError: If a value makes no sense, or the card is missing.
        """
        if not 0 < weight < math.inf:
            raise ValueError(
                f"regulariser.weight={weight} must be a finite number above 0; for no term, "
                "set regulariser=none"
            )
        if guidance_scale is None and path is None:
            raise ValueError(
                "regulariser.guidance_scale is null, but the base model has no card.json to take it from; "
                "set regulariser.guidance_scale"
            )
        if guidance_scale is not None and not 1 <= guidance_scale < math.inf:
            raise ValueError(f"regulariser.guidance_scale={guidance_scale}; at least 1 is allowed, or null")
        self.path, self.weight, self.check_base = path, float(weight), check_base
        self.card, scale = None, guidance_scale
        if path is not None:
            self.card, scale = card_or_guidance(
                path, guidance_scale, setting="regulariser.path", guidance="regulariser.guidance_scale"
            )
        assert scale is not None
        self.guidance_scale = float(scale)

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Compare the frozen model's rank and layers with the backbone.

        Args:
            base_config: The transformer's ``config.json``.

        Raises:
            ValueError: If it does not fit.
        """
        if self.path is not None:
            check_frozen(self.path, base_config, setting="regulariser.path")

    def load(self, model: AdaptedModel) -> None:
        """Add the frozen weights to ``model``, unless they are the base model's.

        Raises:
            ValueError: If they do not fit, or were trained on another base and ``check_base`` is on.
        """
        if self.path is None:
            return
        if self.check_base:
            given = f"regulariser.path={self.path}"
            check_base_of(self.card, model, given, "regulariser.check_base")
        load_frozen(model, ANCHOR, self.path, setting="regulariser.path")

    def join(self, learner: Learner) -> None:
        """Add the frozen weights to the learner's model."""
        self.load(learner.model)
        self._policy = Fixed(learner.model, None if self.path is None else ANCHOR)

    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """The frozen model's velocity at its guidance, on what the student is told."""
        return torch.no_grad()(self._policy.given(conditioning, self.guidance_scale))
