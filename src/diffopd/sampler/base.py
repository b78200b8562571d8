"""The rollout that every sampler shares; a sampler adds its solver's step and nothing else."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import SigmaGrid, Step, per_row, sigma_grid, velocity_to_clean
from diffopd.types import NoiseFunction, Transition, VelocityFunction


class TransitionSampler(ABC):
    """A solver on a sigma grid, yielding one transition at a time.

    Keeps nothing between calls: a rollout's state lives in its generator. All questions of control flow
    (is this step random?) are answered from Python numbers, never from tensors, so a GPU is not waited for.

    Attributes:
        max_noise_level: Largest allowed ``noise_level``; 0 for solvers that are ODEs by nature.
        noiseless_end: True if the last step has no noise although the sampler is stochastic.
        uses_history: True if a step needs the clean prediction of the step before.
        grid: What the levels were laid out by, a shift or a rule.
        shift: The shift of the grid's levels.
    """

    max_noise_level: ClassVar[float]
    noiseless_end: ClassVar[bool]
    uses_history: ClassVar[bool]

    def __init__(
        self,
        *,
        num_steps: int,
        noise_level: int | float,
        shift: int | float | SigmaGrid,
        guidance_scale: int | float,
    ) -> None:
        """Check the settings and lay out the grid.

        Args:
            num_steps: Number of steps, at least 1.
            noise_level: Amount of fresh noise per step, from 0 (ODE) to ``max_noise_level``.
            shift: Shift of Stable Diffusion 3's sigma grid, above 0; or another rule for the grid.
            guidance_scale: Classifier-free guidance of the velocities, 1 = CFG off. The sampler only stores
                it: whoever builds the velocity function applies it.

        Raises:
            ValueError: If a value is out of range; the message names the config path.
        """
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"sampler.num_steps must be a whole number of at least 1, got {num_steps!r}")
        level = self._checked_noise_level(noise_level)
        if not isinstance(shift, SigmaGrid) and not (isinstance(shift, int | float) and 0 < shift < math.inf):
            raise ValueError(
                f"sampler.shift must be a finite number above 0, got {shift}; 1 = no shift. Or a rule with a "
                "_target_, as sampler.shift=${model.shift} of some models"
            )
        if not 0 <= guidance_scale < math.inf:
            raise ValueError(
                f"sampler.guidance_scale must be a finite number of at least 0, got {guidance_scale}; "
                "1 = no guidance"
            )
        self.num_steps = num_steps
        self.noise_level = level
        self.grid = shift
        self.guidance_scale = float(guidance_scale)
        if isinstance(shift, SigmaGrid):
            self.shift, levels = shift.shift(num_steps), shift.levels(num_steps)
        else:
            self.shift, levels = float(shift), sigma_grid(num_steps, shift)
        self._levels: tuple[float, ...] = tuple(levels.tolist())

    def _checked_noise_level(self, noise_level: int | float) -> float:
        if not 0 <= noise_level <= self.max_noise_level or math.isinf(noise_level):
            raise ValueError(self._noise_level_error(noise_level))
        return float(noise_level)

    def _noise_level_error(self, noise_level: int | float) -> str:
        if self.max_noise_level == 0:
            return (
                f"sampler.noise_level must be 0 for {type(self).__name__}, which has no stochastic form, got "
                f"{noise_level}; choose sampler=flow, sampler=ddim, sampler=cps or sampler=dance for "
                "noise"
            )
        limit = "" if math.isinf(self.max_noise_level) else f" and at most {self.max_noise_level:g}"
        return (
            f"sampler.noise_level must be a finite number of at least 0{limit} for {type(self).__name__}, "
            f"got {noise_level}; 0 = ODE"
        )

    @property
    def deterministic(self) -> bool:
        """True when every transition has standard deviation 0."""
        return not any(self.stochastic(step) for step in range(self.num_steps))

    def stochastic(self, step: int) -> bool:
        """True when the transition of ``step`` draws fresh noise."""
        return self.noise_level > 0 and not (self.noiseless_end and step == self.num_steps - 1)

    def sigmas(self) -> Float[Tensor, " steps_plus_one"]:
        """The grid, from 1 to 0, in float32 on the CPU."""
        return torch.tensor(self._levels, dtype=torch.float32)

    def sigma_at(self, step: int, latent: Float[Tensor, " batch *latent"]) -> Float[Tensor, " batch"]:
        """The grid's level ``step``, once per row of ``latent``, on its device."""
        return torch.full((latent.shape[0],), self._levels[step], dtype=torch.float32, device=latent.device)

    def at_noise_level(self, noise_level: int | float) -> TransitionSampler:
        """The same sampler with another noise level."""
        other = copy.copy(self)
        other.noise_level = self._checked_noise_level(noise_level)
        return other

    @abstractmethod
    def solve(
        self,
        step: int,
        latent: Float[Tensor, " batch *latent"],
        velocity: Float[Tensor, " batch *latent"],
        previous_clean: Float[Tensor, " batch *latent"] | None,
    ) -> Step:
        """The solver's Gaussian for one step; ``previous_clean`` is None unless the class uses history."""

    def transition(
        self,
        step: int,
        latent: Float[Tensor, " batch *latent"],
        velocity: Float[Tensor, " batch *latent"],
        *,
        noise: Float[Tensor, " batch *latent"] | None = None,
        next_latent: Float[Tensor, " batch *latent"] | None = None,
        previous_clean: Float[Tensor, " batch *latent"] | None = None,
    ) -> Transition:
        """The transition of one step from a given latent and velocity.

        Args:
            step: Position in the grid, 0 = pure noise.
            latent: State the step starts from; detached here.
            velocity: Model output there; its gradient reaches ``mean``.
            noise: Standard normal noise of the step; ``next_latent`` is ``mean + std * noise``.
            next_latent: The state that was drawn earlier, for a step looked at again. With neither, the next
                latent is the mean.
            previous_clean: Clean prediction of the step before; samplers with history need it after step 0.

        Raises:
            ValueError: If the noise has another shape than the latent, or history is missing.
        """
        latent = latent.detach()
        if self.uses_history and step > 0 and previous_clean is None:
            raise ValueError(
                f"{type(self).__name__} needs previous_clean (the clean prediction of step {step - 1}) at "
                f"step {step}; use rollout, which carries it along"
            )
        solved = self.solve(step, latent, velocity, previous_clean)
        if next_latent is None:
            next_latent = solved.mean.detach()
            if noise is not None:
                if noise.shape != latent.shape:
                    raise ValueError(
                        f"fresh noise must have the latent's shape {tuple(latent.shape)}, "
                        f"got {tuple(noise.shape)}"
                    )
                next_latent = next_latent + per_row(solved.std, latent) * noise
        return Transition(
            step=step,
            num_steps=self.num_steps,
            latent=latent,
            sigma=self.sigma_at(step, latent),
            sigma_next=self.sigma_at(step + 1, latent),
            velocity=velocity,
            mean=solved.mean,
            std=solved.std,
            std_released=solved.std_released,
            coefficient=solved.coefficient,
            next_latent=next_latent.detach(),
            stochastic=self.stochastic(step),
        )

    def grid_transitions(self) -> list[Transition]:
        """The transition of every step from a latent of one zero, on the CPU.

        A step's ``coefficient``, ``std``, ``sigma`` and ``stochastic`` depend on the settings alone: here
        they can be read before anything is rolled out, and without waiting for a GPU.
        """
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.float32, device="cpu")
        return [self.transition(step, zero, zero, previous_clean=zero) for step in range(self.num_steps)]

    def rollout(
        self, velocity: VelocityFunction, noise: Tensor, fresh_noise: NoiseFunction, *, first_step: int = 0
    ) -> Iterator[Transition]:
        """Yield each transition; the caller may call ``backward`` before asking for the next.

        ``velocity`` runs under the caller's grad mode of that moment, so gradients may be switched per step.
        The generator releases a step's graph before it continues: with a ``backward`` after each step, or
        without gradients, one step's activations are in memory.

        Args:
            velocity: The model, already conditioned and guided.
            noise: Start of the rollout, standard normal; with ``first_step`` the state that step starts from.
            fresh_noise: Called once for each stochastic step, never for a deterministic one.
            first_step: Step to begin with; after the first a solver with history has none.
        """
        latent, previous_clean = noise.detach(), None
        for step in range(first_step, self.num_steps):
            prediction = velocity(latent, self.sigma_at(step, latent))
            transition = self.transition(
                step,
                latent,
                prediction,
                noise=fresh_noise(step) if self.stochastic(step) else None,
                previous_clean=previous_clean,
            )
            latent, previous_clean = transition.next_latent, self.clean_history(transition)
            del prediction
            yield transition
            del transition

    def clean_history(self, transition: Transition) -> Tensor | None:
        """The detached clean prediction the next step may need; None if the solver has no history."""
        if not self.uses_history:
            return None
        return velocity_to_clean(transition.latent, transition.velocity.detach(), transition.sigma)
