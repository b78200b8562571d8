"""Sigma grids of newer pipelines, whose shift depends on the picture's size or the number of steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow.sigmas import shift_sigma, sigma_grid
from diffopd.types.size import ImageSize, height_and_width, shown_size


class SigmaGrid(ABC):
    """A rule that gives the levels of a rollout from its number of steps.

    ``num_steps`` levels are spread evenly from 1 to ``1 / num_steps``, moved by :meth:`shift`, then stretched
    so that the last one above 0 is ``terminal``, if there is such a level; a final 0 is appended. Stable
    Diffusion 3's grid is another one, :func:`~diffopd.flow.sigma_grid`.
    """

    terminal: float | None = None

    @abstractmethod
    def shift(self, num_steps: int) -> float:
        """What :func:`~diffopd.flow.shift_sigma` moves the levels of a rollout by."""

    def levels(self, num_steps: int) -> Float[Tensor, " steps_plus_one"]:
        """``num_steps + 1`` levels in float32, from 1 down to 0.

        Raises:
            ValueError: If ``num_steps`` is below 1.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        even = torch.linspace(1, 1 / num_steps, num_steps, dtype=torch.float64)
        levels = shift_sigma(even, self.shift(num_steps))
        if self.terminal is not None and num_steps > 1:  # a single level is 1 and cannot be moved
            levels = 1 - (1 - levels) * (1 - self.terminal) / (1 - levels[-1])
        return torch.cat([levels.float(), torch.zeros(1)])


@final
class ConstantShift(SigmaGrid):
    """One shift whatever the picture's size, as Z-Image has it."""

    def __init__(self, *, shift: int | float) -> None:
        """Keep the shift.

        Args:
            shift: Above 0; 1 leaves the levels evenly spread, more spends more steps at high noise.

        Raises:
            ValueError: If it is out of range.
        """
        self._shift = _positive("shift", shift)

    def shift(self, num_steps: int) -> float:
        """The same for any number of steps."""
        return self._shift


@final
class DoubleShift(SigmaGrid):
    """The first levels of Stable Diffusion 3's grid with one more step: its tiny last level is left out.

    With a shift of 6 and 8 steps these are the levels at which D-OPSD's released trainer for Z-Image-Turbo
    trains with K = 8: 1, 0.9769, 0.9478, 0.9099, 0.8586, 0.7853, 0.6719, 0.4732. They are not the model's own
    eight, which are those of :class:`ConstantShift` with a shift of 3.
    """

    def __init__(self, *, shift: int | float) -> None:
        """Keep the shift.

        Args:
            shift: Above 0; the levels are moved by it twice, see :func:`~diffopd.flow.sigma_grid`.

        Raises:
            ValueError: If it is out of range.
        """
        self._shift = _positive("shift", shift)

    def shift(self, num_steps: int) -> float:
        """The same for any number of steps."""
        return self._shift

    def levels(self, num_steps: int) -> Float[Tensor, " steps_plus_one"]:
        """``num_steps`` levels of a grid of one more, and a final 0.

        Raises:
            ValueError: If ``num_steps`` is below 1.
        """
        levels = sigma_grid(num_steps + 1, self._shift) if num_steps >= 1 else sigma_grid(num_steps, 1)
        return torch.cat([levels[:num_steps], levels[-1:]])


@final
class ResolutionShift(SigmaGrid):
    """A shift that grows with the number of image tokens, as FLUX.1 and Qwen-Image have it.

    ``mu`` is linear in the number of tokens, through ``least_mu`` at ``least_tokens`` and ``most_mu`` at
    ``most_tokens``; the shift is ``exp(mu)``.

    References:
        Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024,
        arXiv:2403.03206, Section 5.3.2.
    """

    def __init__(
        self,
        *,
        image_size: ImageSize,
        pixels_per_token: int,
        least_tokens: int,
        most_tokens: int,
        least_mu: int | float,
        most_mu: int | float,
        terminal: int | float | None,
    ) -> None:
        """Work out the shift.

        Args:
            image_size: Height and width of the pictures; one number for squares.
            pixels_per_token: Side of the square of pixels that one token stands for.
            least_tokens: Number of tokens at which ``mu`` is ``least_mu``.
            most_tokens: Number of tokens at which ``mu`` is ``most_mu``.
            least_mu: See above.
            most_mu: See above.
            terminal: Last level above 0, in (0, 1); None leaves it where the shift puts it.

        Raises:
            ValueError: If a number is out of range.
        """
        tokens = num_tokens(image_size, pixels_per_token)
        if not 0 < least_tokens < most_tokens:
            raise ValueError(
                f"model.shift.least_tokens={least_tokens} must be above 0 and below "
                f"model.shift.most_tokens={most_tokens}"
            )
        if terminal is not None and not 0 < terminal < 1:
            raise ValueError(f"model.shift.terminal={terminal} must be in (0, 1), or null")
        slope = (most_mu - least_mu) / (most_tokens - least_tokens)
        self._shift = math.exp(least_mu + slope * (tokens - least_tokens))
        self.terminal = None if terminal is None else float(terminal)

    def shift(self, num_steps: int) -> float:
        """The same for any number of steps."""
        return self._shift


@final
class EmpiricalShift(SigmaGrid):
    """FLUX.2's shift, fitted to the number of image tokens and of steps.

    Two lines in the number of tokens give ``mu`` at 10 and at 200 steps; other numbers of steps lie on the
    line through both. Above 4300 tokens the second line holds for any number of steps. The shift is
    ``exp(mu)``.

    References:
        black-forest-labs/flux2, ``compute_empirical_mu``; the same constants as in diffusers 0.42.1.
    """

    def __init__(self, *, image_size: ImageSize, pixels_per_token: int) -> None:
        """Count the tokens.

        Args:
            image_size: Height and width of the pictures; one number for squares.
            pixels_per_token: Side of the square of pixels that one token stands for.

        Raises:
            ValueError: If the two do not give a number of tokens.
        """
        self.tokens = num_tokens(image_size, pixels_per_token)

    def shift(self, num_steps: int) -> float:
        """The shift of a rollout of ``num_steps`` steps."""
        many_steps = 0.00016927 * self.tokens + 0.45666666
        if self.tokens > 4300:
            return math.exp(many_steps)
        ten_steps = 8.73809524e-05 * self.tokens + 1.89833333
        return math.exp(many_steps + (many_steps - ten_steps) * (num_steps - 200) / 190)


def num_tokens(image_size: ImageSize, pixels_per_token: int) -> int:
    """Image tokens of a picture.

    Raises:
        ValueError: If a side is no multiple of a token's.
    """
    height, width = height_and_width(image_size)
    if pixels_per_token < 1 or height % pixels_per_token or width % pixels_per_token:
        raise ValueError(
            f"model.image_size={shown_size((height, width))} must be a multiple of "
            f"model.shift.pixels_per_token={pixels_per_token}"
        )
    return (height // pixels_per_token) * (width // pixels_per_token)


def _positive(name: str, value: int | float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"model.shift.{name}={value} must be a finite number above 0")
    return float(value)
