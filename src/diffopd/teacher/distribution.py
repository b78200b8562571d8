"""Regularization towards a model's distribution, by the difference of two scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import interpolate, shift_sigma, velocity_to_clean
from diffopd.loss.dmd import dmd_loss
from diffopd.loss.flow_matching import flow_matching_loss
from diffopd.policy import OptimizerFactory, Policy
from diffopd.teacher.regulariser import FrozenRegulariser
from diffopd.teacher.target import Learner
from diffopd.types import Conditioning, Transition

FAKE = "fake"
"""Name of the policy that models the student's own distribution."""


@final
class Distribution(FrozenRegulariser):
    """Adds ``weight`` times DMD's loss between the student's clean predictions and a frozen model's samples.

    The student's clean prediction at a state it is trained at is noised to a random level; there the frozen
    model and ``fake``, a policy that learns the student's predictions as they come, say in which direction
    the student's distribution has left the frozen model's. A model of few steps draws by such predictions, so
    it stays one of few steps while a reward or a teacher pulls at it.

    Attributes:
        fake: The policy of the student's distribution; set by :meth:`join`.
        fake_optimizer: Makes its optimizer.
        fake_updates_per_round: Updates of it for one of the student.

    References:
        The idea of DMDR (distribution matching distillation beside reinforcement learning), second hand; the
        term is DMD2's: Yin et al., 2024, arXiv:2405.14867.
    """

    fake: Policy

    def __init__(
        self,
        *,
        path: str | None,
        guidance_scale: int | float | None,
        check_base: bool,
        weight: int | float,
        tau_min: int | float,
        tau_max: int | float,
        tau_shift: int | float,
        fake_optimizer: OptimizerFactory,
        fake_updates_per_round: int,
    ) -> None:
        """Read the card, where there is one; weights wait for :meth:`join`.

        Args:
            path: A LoRA or a whole transformer, as for a teacher; null for the base model.
            guidance_scale: Guidance of the frozen model; null for what its card says.
            check_base: Refuse weights whose card names another base model.
            weight: Weight of the term, above 0.
            tau_min: Smallest noise level at which scores are compared, above 0.
            tau_max: Largest, below 1.
            tau_shift: Shift of the uniform levels towards noise, also of the fake score's.
            fake_optimizer: Makes the fake score's optimizer.
            fake_updates_per_round: Updates of the fake score for one of the student, at least 1.

        Raises:
            ValueError: If a value makes no sense, or the card is missing.
        """
        if not 0 < tau_min <= tau_max < 1 or not tau_shift > 0:
            raise ValueError(
                f"regulariser.tau_min={tau_min} and regulariser.tau_max={tau_max} must lie between 0 and 1 "
                f"in this order (both exclusive), and regulariser.tau_shift={tau_shift} above 0"
            )
        if fake_updates_per_round < 1:
            raise ValueError(
                f"regulariser.fake_updates_per_round={fake_updates_per_round} must be at least 1: without a "
                "score of the student's distribution there is nothing to compare"
            )
        super().__init__(path=path, guidance_scale=guidance_scale, check_base=check_base, weight=weight)
        self.tau_range, self.tau_shift = (tau_min, tau_max), tau_shift
        self.fake_optimizer, self.fake_updates_per_round = fake_optimizer, fake_updates_per_round

    def join(self, learner: Learner) -> None:
        """Add the frozen model, and the policy of the student's distribution."""
        super().join(learner)
        self.fake = learner.add_policy(FAKE)

    def over(self, transitions: Sequence[Transition]) -> Distribution:
        """Itself: no step has a weight of its own."""
        return self

    def noised(
        self,
        clean: Float[Tensor, " batch *latent"],
        share: Float[Tensor, " batch"],
        fresh: Float[Tensor, " batch *latent"],
    ) -> tuple[Float[Tensor, " batch *latent"], Float[Tensor, " batch"]]:
        """Clean predictions at random noise levels.

        Args:
            clean: The predictions.
            share: Uniform numbers in [0, 1).
            fresh: Standard normal noise.

        Returns:
            Noised predictions and their levels.
        """
        lowest, highest = self.tau_range
        tau = shift_sigma(lowest + (highest - lowest) * share, self.tau_shift)
        return interpolate(clean, fresh, tau), tau

    def term(
        self,
        clean: Float[Tensor, " batch *latent"],
        conditioning: Conditioning,
        share: Float[Tensor, " batch"],
        fresh: Float[Tensor, " batch *latent"],
    ) -> Float[Tensor, " batch"]:
        """DMD's loss per row, before its weight; gradients reach ``clean`` alone.

        Args:
            clean: The student's clean predictions.
            conditioning: One row each.
            share: Uniform numbers in [0, 1).
            fresh: Standard normal noise.
        """
        with torch.no_grad():
            latent, tau = self.noised(clean.detach(), share, fresh)
            velocities = [
                self._policy.velocity(latent, tau, conditioning, self.guidance_scale),
                self.fake.velocity(latent, tau, conditioning, 1.0),
            ]
            exact = (latent.double(), tau.double())
            real, fake = (velocity_to_clean(exact[0], v.double(), exact[1]) for v in velocities)
        return dmd_loss(clean, real, fake)

    def fake_loss(
        self,
        clean: Float[Tensor, " batch *latent"],
        conditioning: Conditioning,
        share: Float[Tensor, " batch"],
        fresh: Float[Tensor, " batch *latent"],
    ) -> Float[Tensor, " batch"]:
        """Flow matching of the fake score on the student's predictions, per row; as :meth:`term`."""
        latent, tau = self.noised(clean, share, fresh)
        velocity = self.fake.velocity(latent, tau, conditioning, 1.0)
        return flow_matching_loss(velocity, clean, fresh, reduction="mean")
