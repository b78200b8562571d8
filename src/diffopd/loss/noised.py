"""What losses have in common that learn a reward from noised samples."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row
from diffopd.types import LossTerm


@runtime_checkable
class NoisedLoss(Protocol):
    """A loss of noised samples and their advantages, for ``phase=nft``.

    Attributes:
        name: What its value is logged as.
        advantage_clip: Largest magnitude of an advantage.
    """

    name: ClassVar[str]
    advantage_clip: int | float

    @property
    def needs_old(self) -> bool:
        """Whether a call needs the velocity of the policy that made the samples."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether a call needs the frozen reference's velocity."""
        ...

    def __call__(
        self,
        velocity: Tensor,
        velocity_old: Tensor | None,
        velocity_reference: Tensor | None,
        latent: Tensor,
        sigma: Tensor,
        clean: Tensor,
        advantage: Tensor,
    ) -> LossTerm:
        """Loss per sample; gradients reach ``velocity`` alone."""
        ...


def sample_velocity(
    latent: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    clean: Float[Tensor, " batch *latent"],
) -> Float[Tensor, " batch *latent"]:
    """Velocity that leads from a noised sample straight back to it, ``noise - clean``, in float64.

    Args:
        latent: ``(1 - sigma) * clean + sigma * noise``.
        sigma: Its noise, above 0.
        clean: The sample.

    Examples:
        >>> import torch
        >>> sample_velocity(torch.tensor([[1.0]]), torch.tensor([0.5]), torch.tensor([[4.0]]))
        tensor([[-6.]], dtype=torch.float64)
    """
    start, level = latent.detach().double(), sigma.double()
    return (start - clean.detach().double()) / per_row(level, start)


def at_hand(velocity: Tensor | None, needed: str) -> Tensor:
    """A constant velocity in float64 that the caller has to have computed.

    Raises:
        ValueError: If it has not.
    """
    if velocity is None:
        raise ValueError(f"the loss needs the velocity of the {needed}, and none came; see needs_{needed}")
    return velocity.detach().double()


def row_weight(advantage: Float[Tensor, " batch"], like: Tensor) -> Tensor:
    """Advantages as constants in float64 that multiply rows of ``like``."""
    return per_row(advantage.detach().double().to(like.device), like)
