"""Copies of the adapters that a phase trains, to put back later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Adapters = dict[str, dict[str, Tensor]]
"""adapter -> its parameters by name."""


@runtime_checkable
class Adapted(Protocol):
    """A phase that trains adapters, which are small enough to keep copies of."""

    @property
    def saved_adapters(self) -> tuple[str, ...]:
        """Adapters that training changes."""
        ...

    def parameters_of(self, name: str) -> Mapping[str, Tensor]:
        """Parameters of one adapter."""
        ...


def copy_adapters(phase: Adapted) -> Adapters:
    """All adapters that training changes, as they are now, on the CPU."""
    return {
        adapter: {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in phase.parameters_of(adapter).items()
        }
        for adapter in phase.saved_adapters
    }


@torch.no_grad()
def put_back(phase: Adapted, adapters: Adapters) -> None:
    """Give every adapter the values of a copy."""
    for adapter, values in adapters.items():
        for name, parameter in phase.parameters_of(adapter).items():
            parameter.copy_(values[name])
