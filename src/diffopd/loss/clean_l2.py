"""Squared distance of the clean predictions: matching of the images that student and teacher foresee."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition


def clean_l2_weight(sigma: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Weight of the squared velocity gap in ``0.5 ||student_clean - teacher_clean||^2``: ``0.5 sigma^2``.

    The clean prediction is ``latent - sigma * velocity``. Unlike the losses on the means, this one weighs the
    first steps most, where the layout of an image is settled, and does not depend on the sampler.

    Examples:
        >>> import torch
        >>> clean_l2_weight(torch.tensor([0.2]))
        tensor([0.0200])
    """
    return 0.5 * sigma.square()


@final
class CleanL2(TransitionMatching):
    """Half the squared distance of the clean predictions ("x0 matching"), with any sampler."""

    name: ClassVar[str] = "clean_l2"

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`clean_l2_weight`."""
        return clean_l2_weight(student.sigma)
