"""Sigma grids: the noise levels a rollout visits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shift_sigma(sigma: Float[Tensor, " *any"], shift: int | float) -> Float[Tensor, " *any"]:
    """Move noise levels towards 1 (``shift > 1``): ``shift * sigma / (1 + (shift - 1) * sigma)``.

    0 and 1 stay where they are.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_grid(
    num_steps: int, shift: int | float, *, num_train_timesteps: int = 1000
) -> Float[Tensor, " steps_plus_one"]:
    """The grid of Stable Diffusion 3's scheduler, from 1 down to 0.

    The smallest training level ``1 / num_train_timesteps`` is shifted, ``num_steps`` levels are spread evenly
    between 1 and it, and all of them are shifted a second time; a final 0 is appended. The last level above 0
    is therefore tiny (0.0089 at shift 3) whatever ``num_steps``, and the last step changes almost nothing.

    Args:
        num_steps: Number of steps, at least 1.
        shift: Shift of the noise levels, above 0; 1 leaves them evenly spread.
        num_train_timesteps: Number of noise levels the backbone's scheduler was defined with.

    Returns:
        ``num_steps + 1`` levels in float32, equal to those of diffusers' ``FlowMatchEulerDiscreteScheduler``.

    Raises:
        ValueError: If ``num_steps`` or ``shift`` is out of range.

    Examples:
        >>> sigma_grid(2, shift=1.0)
        tensor([1.0000, 0.0010, 0.0000])
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not shift > 0:
        raise ValueError(f"shift must be above 0, got {shift}")
    smallest = shift_sigma(torch.tensor(1 / num_train_timesteps, dtype=torch.float32), shift).item()
    even = torch.linspace(1, smallest, num_steps, dtype=torch.float64)
    levels = shift_sigma(even, shift).float()
    return torch.cat([levels, torch.zeros(1)])
