"""What all policies answer: a guided velocity; and what trained ones hold: weights of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from diffopd.model import PipelineModel, guided_velocity
from diffopd.types import Conditioning, VelocityFunction


class Policy(ABC):
    """A network under a name on a model.

    Attributes:
        model: The model it is on.
        name: What calls of the model's ``velocity`` name it by; None for the base model.
    """

    def __init__(self, model: PipelineModel, name: str | None) -> None:
        self.model, self.name = model, name

    def velocity(
        self,
        latent: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        conditioning: Conditioning,
        guidance_scale: float,
    ) -> Float[Tensor, " batch *latent"]:
        """Its velocity under classifier-free guidance.

        Args:
            latent: Noisy states.
            sigma: Their noise, in [0, 1].
            conditioning: One row per state.
            guidance_scale: 1 = no guidance.

        Returns:
            Velocities in fp32, with gradient wherever the caller's mode has it.
        """
        empty = self.model.unconditional()
        return guided_velocity(self.model, latent, sigma, conditioning, empty, guidance_scale, self.name)

    def given(self, conditioning: Conditioning, guidance_scale: float) -> VelocityFunction:
        """Its guided velocity as a function of latent and sigma."""

        def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
            return self.velocity(latent, sigma, conditioning, guidance_scale)

        return velocity

    @abstractmethod
    def weights(self) -> Mapping[str, nn.Parameter]:
        """Its own parameters, by names that two policies of one shape share."""

    @abstractmethod
    def owns(self, key: str) -> bool:
        """Whether an entry of the state dict of a module with the attribute ``model`` is this policy's."""

    @abstractmethod
    def copy_from(self, other: Policy) -> None:
        """Take the values of a policy of the same shape.

        Raises:
            ValueError: If the shapes differ.
        """

    @abstractmethod
    def is_base(self) -> bool:
        """Whether its values are those of the base model."""

    @abstractmethod
    def become_base(self) -> None:
        """Take the values of the base model."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it where ``adapter=`` and ``teacher=`` read it, whole or not at all."""

    def set_trained(self, trained: bool) -> None:
        """Have gradients reach its weights, or not."""
        for parameter in self.weights().values():
            parameter.requires_grad_(trained)


@final
class Fixed(Policy):
    """A network that is asked and never changed: the base model, or a frozen teacher under its name."""

    def weights(self) -> Mapping[str, nn.Parameter]:
        """None that are its own to change."""
        return {}

    def owns(self, key: str) -> bool:
        """No entry: what never changes is not saved."""
        return False

    def copy_from(self, other: Policy) -> None:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.name or 'the base model'} is fixed and takes no values")

    def is_base(self) -> bool:
        """Whether it is the base model itself."""
        return self.name is None

    def become_base(self) -> None:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.name or 'the base model'} is fixed and takes no values")

    def save(self, folder: Path) -> None:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.name or 'the base model'} is fixed; it lies where it was loaded from")
