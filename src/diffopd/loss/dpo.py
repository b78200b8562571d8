"""Preference pairs: of two pictures for one prompt the model is to explain the preferred one better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import reduce_latent
from diffopd.loss.setting import check_at_least_zero, check_positive
from diffopd.types import LossTerm

FORMS = ("sigmoid", "hinge")
REFERENCES = ("base", "none")


@dataclass(frozen=True)
class Side:
    """One picture of each pair at a noise level.

    Attributes:
        velocity: The trained model's there; carries the gradient.
        target: ``noise - clean``.
        reference: The frozen model's velocity; None where none is asked.
    """

    velocity: Float[Tensor, " batch *latent"]
    target: Float[Tensor, " batch *latent"]
    reference: Float[Tensor, " batch *latent"] | None = None

    def error(self) -> Float[Tensor, " batch"]:
        """Mean squared error of the trained model's velocity, in fp32; carries the gradient."""
        return _error(self.velocity, self.target)

    def gain(self) -> Float[Tensor, " batch"]:
        """How much smaller that error is than the reference's; without a reference minus the error."""
        if self.reference is None:
            return -self.error()
        return _error(self.reference.detach(), self.target) - self.error()


def preference_margin(
    preferred_gain: Float[Tensor, " batch"], rejected_gain: Float[Tensor, " batch"], *, push: int | float
) -> Float[Tensor, " batch"]:
    """How much more the model has gained on the preferred picture than on the rejected one.

    ``(error_ref(w) - error(w)) - push (error_ref(l) - error(l))`` for the preferred picture ``w`` and the
    rejected ``l``. With ``push`` 1 and a log-likelihood of ``-error`` it is DPO's implicit reward margin.

    Args:
        preferred_gain: Error of the reference less the model's, on the preferred picture.
        rejected_gain: The same on the rejected one.
        push: Weight of the rejected picture; below 1 pushes less away from it.

    Examples:
        >>> preference_margin(torch.tensor([0.3]), torch.tensor([-0.1]), push=1)
        tensor([0.4000])
    """
    return preferred_gain - push * rejected_gain


def sigmoid_loss(margin: Float[Tensor, " batch"], *, beta: int | float) -> Float[Tensor, " batch"]:
    """``-log sigmoid(beta margin)``; ``log 2`` for a model that is the reference.

    Args:
        margin: See :func:`preference_margin`.
        beta: How soon a margin is enough: at ``1 / beta`` the gradient is about half of what it was at 0.

    References:
        Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization", 2023,
        arXiv:2311.12908, Eq. 14. Its code multiplies by ``beta_dpo / 2``: its 5000 is 2500 here.
        Miao et al., "Tuning Timestep-Distilled Diffusion Model Using Pairwise Sample Optimization", 2024,
        arXiv:2410.03190, whose code multiplies by ``beta_pso``.

    Examples:
        >>> sigmoid_loss(torch.tensor([0.0, 1.0]), beta=2)
        tensor([0.6931, 0.1269])
    """
    return torch.nn.functional.softplus(-beta * margin)


def hinge_loss(margin: Float[Tensor, " batch"], *, beta: int | float) -> Float[Tensor, " batch"]:
    """``max(0, 1 - beta margin)``: pairs with a margin of ``1 / beta`` or more teach nothing.

    Args:
        margin: See :func:`preference_margin`.
        beta: Inverse of the margin that is enough.

    Examples:
        >>> hinge_loss(torch.tensor([0.0, 0.1, 1.0]), beta=5)
        tensor([1.0000, 0.5000, 0.0000])
    """
    return torch.relu(1 - beta * margin)


@final
class DPO:
    """The preference loss with its settings.

    Attributes:
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "preference"

    def __init__(
        self,
        *,
        beta: int | float,
        form: Literal["sigmoid", "hinge"],
        reference: Literal["base", "none"],
        push: int | float,
        keep: int | float,
    ) -> None:
        """Check the settings.

        Args:
            beta: Weight of a margin, above 0.
            form: ``sigmoid`` or ``hinge``.
            reference: ``base``: gains over the model without adapter; ``none``: errors alone.
            push: Weight of the rejected picture in the margin, at least 0.
            keep: Weight of the rejected picture's own error, which is added: the model is to remember what it
                draws; at least 0.

        Raises:
            ValueError: If a value is not known or out of range.
        """
        for name, value, allowed in (("form", form, FORMS), ("reference", reference, REFERENCES)):
            if value not in allowed:
                raise ValueError(f"loss.{name}={value} must be one of {', '.join(allowed)}")
        check_positive(beta=beta)
        check_at_least_zero(push=push, keep=keep)
        self.beta, self.push, self.keep = beta, push, keep
        self.form = sigmoid_loss if form == "sigmoid" else hinge_loss
        self.needs_reference = reference == "base"

    def __call__(self, preferred: Side, rejected: Side) -> LossTerm:
        """Loss per pair; gradients reach the two ``velocity`` alone.

        Args:
            preferred: The pictures that are preferred.
            rejected: Those that they are preferred to, at the same noise level.

        Returns:
            Loss per pair. Metrics: ``margin``, and both errors, ``preferred_gap`` and ``rejected_gap``.
        """
        margin = preference_margin(preferred.gain(), rejected.gain(), push=self.push)
        value = self.form(margin, beta=self.beta)
        if self.keep > 0:
            value = value + self.keep * rejected.error()
        metrics = {
            "margin": margin.detach(),
            "preferred_gap": preferred.error().detach(),
            "rejected_gap": rejected.error().detach(),
        }
        return LossTerm(value=value, metrics=metrics)


def _error(velocity: Tensor, target: Tensor) -> Float[Tensor, " batch"]:
    return reduce_latent((velocity.float() - target.detach().float()).square(), "mean")
