"""What the processes of a training tell each other, beside gradients."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from diffopd.strategy.group import num_processes


def averaged(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    if num_processes() == 1:
        return values
    distributed.all_reduce(values)
    return values / num_processes()


def largest(number: int) -> int:
    """The largest of a number over all processes."""
    if num_processes() == 1:
        return number
    on_gpu = distributed.get_backend() == "nccl"
    value = torch.tensor(number, device="cuda" if on_gpu else "cpu")
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)
