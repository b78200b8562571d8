"""The one thing that processes exchange in an update: gradients, averaged in one transfer and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Traffic:
    """What this process has handed over for averaging since it began.

    Attributes:
        num_bytes: Bytes of the tensors handed to collective operations.
        transfers: Collective operations.
    """

    num_bytes: int = 0
    transfers: int = 0


_traffic = Traffic()


def traffic() -> Traffic:
    """What has been counted so far in this process."""
    return _traffic


def flat_gradient(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """A copy of all gradients as one vector; zeros where there is none."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Average the gradients of one update over all processes in one transfer; nothing in a single process."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    flat = flat_gradient(parameters)
    sum_over_processes(flat)
    flat /= distributed.get_world_size()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def sum_over_processes(values: Tensor) -> None:
    """Replace a tensor by its sum over all processes, and count it."""
    global _traffic
    distributed.all_reduce(values)
    _traffic = Traffic(_traffic.num_bytes + values.numel() * values.element_size(), _traffic.transfers + 1)
