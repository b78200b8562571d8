"""What the processes of a training tell each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """How many processes train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def averaged(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    if num_processes() == 1:
        return values
    distributed.all_reduce(values)
    return values / num_processes()


def flat_gradient(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """A copy of all gradients as one vector; zeros where there is none."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Average gradients over all processes in one transfer; does nothing in a single process."""
    if num_processes() == 1:
        return
    flat = averaged(flat_gradient(parameters))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
