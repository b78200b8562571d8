"""Regularization towards one more frozen model, on every sample: Flow-OPD's manifold anchor."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.teacher.regulariser import FrozenRegulariser, StateRegulariser
from diffopd.types import Transition


@final
class Anchor(FrozenRegulariser, StateRegulariser):
    """Adds ``weight * loss(student, anchor)`` on the rows of all tasks.

    Attributes:
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
        super().__init__(path=path, guidance_scale=guidance_scale, check_base=check_base, weight=weight)
        self.loss = loss

    def over(self, transitions: Sequence[Transition]) -> Anchor:
        """The same with a loss that knows its steps, which one with ``normalize`` must.

        Args:
            transitions: One of each step that may be trained.
        """
        told = copy.copy(self)
        told.loss = self.loss.over(transitions)
        return told

    def __call__(
        self, student: Transition, velocity: Float[Tensor, " batch *latent"]
    ) -> Float[Tensor, " batch"]:
        """The loss per row; gradients reach ``student.velocity`` alone.

        Args:
            student: The transition.
            velocity: The anchor's velocity at its latent.
        """
        return self.loss(student, velocity).value
