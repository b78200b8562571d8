"""The one thing that processes exchange in an update: gradients, averaged in one transfer and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from diffopd.strategy.divided import own_part
from diffopd.strategy.group import num_processes


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
    """A copy of all gradients as one vector; zeros where there is none. Of those in shards, the own part."""
    values = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([own_part(value).flatten() for value in values])


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Average the gradients of one update over all processes in one transfer; nothing in a single process.

    Gradients in shards are left as they are: they were averaged as they came up.
    """
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if num_processes() == 1 or not parameters:
        return
    flat = averaged_gradients(flat_gradient(parameters))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def averaged_gradients(values: Tensor) -> Tensor:
    """Mean over all processes of what holds gradients, in one transfer, which is counted."""
    global _traffic
    if num_processes() == 1:
        return values
    distributed.all_reduce(values)
    _traffic = Traffic(_traffic.num_bytes + values.numel() * values.element_size(), _traffic.transfers + 1)
    return values / num_processes()
