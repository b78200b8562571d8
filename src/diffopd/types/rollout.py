"""A rollout: its steps, its record, and what makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diffopd.types.prompts import Conditioning, Prompts


@dataclass(frozen=True)
class Transition:
    """One denoising step taken from ``latent`` at ``sigma`` to ``next_latent`` at ``sigma_next``.

    The step is a Gaussian with mean ``mean`` and standard deviation ``std`` (0 for an ODE step). ``mean``
    is affine in ``velocity`` with slope ``coefficient``, so for two models at one latent
    ``mean_a - mean_b = coefficient * (velocity_a - velocity_b)``.

    Attributes:
        step: Position in the rollout, 0 = pure noise.
        num_steps: Number of steps of the whole rollout.
        latent: State the step starts from; detached.
        sigma: Noise of ``latent``, in [0, 1].
        sigma_next: Noise after the step, smaller than ``sigma``.
        velocity: The model's output at ``latent``; carries the gradient.
        mean: Mean of the next latent; carries the gradient.
        std: Standard deviation of the next latent.
        std_released: What the released code calls ``std_dev_t``: for the flow SDE it lacks ``sqrt(-dt)``.
        coefficient: d mean / d velocity.
        next_latent: The sampled state; the rollout continues from its detached value.
        stochastic: True when ``std`` is above 0; known without reading a tensor.
    """

    step: int
    num_steps: int
    latent: Float[Tensor, " batch *latent"]
    sigma: Float[Tensor, " batch"]
    sigma_next: Float[Tensor, " batch"]
    velocity: Float[Tensor, " batch *latent"]
    mean: Float[Tensor, " batch *latent"]
    std: Float[Tensor, " batch"]
    std_released: Float[Tensor, " batch"]
    coefficient: Float[Tensor, " batch"]
    next_latent: Float[Tensor, " batch *latent"]
    stochastic: bool


@dataclass(frozen=True)
class Trajectory:
    """The record of a rollout.

    Attributes:
        latents: States from pure noise to clean, both ends included.
        sigmas: The grid, from 1 to 0.
    """

    latents: Float[Tensor, " steps_plus_one batch *latent"]
    sigmas: Float[Tensor, " steps_plus_one"]

    @property
    def clean(self) -> Float[Tensor, " batch *latent"]:
        """The final latents."""
        return self.latents[-1]


VelocityFunction = Callable[[Tensor, Tensor], Tensor]
"""``(latent (batch, *latent), sigma (batch,)) -> velocity (batch, *latent)``."""

NoiseFunction = Callable[[int], Tensor]
"""``step -> standard normal noise (batch, *latent)`` for the step's fresh noise."""


@runtime_checkable
class VelocityModel(Protocol):
    """A text-to-image flow model that answers every phase's questions the same way."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent: channels, then any number of axes, such as height and width."""
        ...

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Encode texts."""
        ...

    def condition(self, prompts: Prompts) -> Conditioning:
        """Encode all that the backbone is told about each row: texts, and pictures where it reads them."""
        ...

    def velocity(
        self,
        latent: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        adapters: str | Sequence[str] | None = None,
    ) -> Tensor:
        """Velocity d latent / d sigma; ``adapters`` names one adapter for all rows, one per row, or none."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1], shape (batch, 3, height, width)."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Turns noise into images, one transition at a time."""

    num_steps: int
    guidance_scale: float

    @property
    def deterministic(self) -> bool:
        """True when every transition has standard deviation 0."""
        ...

    def sigmas(self) -> Float[Tensor, " steps_plus_one"]:
        """The grid, from 1 to 0."""
        ...

    def rollout(
        self, velocity: VelocityFunction, noise: Tensor, fresh_noise: NoiseFunction
    ) -> Iterator[Transition]:
        """Yield each transition; the caller may call ``backward`` before asking for the next."""
        ...
