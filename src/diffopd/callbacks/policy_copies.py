"""Copies of the policies that a phase trains, to put back later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffopd.policy import Policy
from diffopd.strategy.divided import divided_like, whole_value

Copies = dict[str, dict[str, Tensor]]
"""policy -> its weights by name."""


@runtime_checkable
class Training(Protocol):
    """A phase that trains policies.

    Attributes:
        policies: All that training changes, by name.
    """

    policies: Mapping[str, Policy]


def copy_policies(phase: Training) -> Copies:
    """All policies that training changes, as they are now, on the CPU."""
    return {
        name: {
            key: whole_value(value.detach()).to("cpu", copy=True) for key, value in policy.weights().items()
        }
        for name, policy in phase.policies.items()
    }


@torch.no_grad()
def put_back(phase: Training, copies: Copies) -> None:
    """Give every policy the values of a copy."""
    for name, values in copies.items():
        for key, parameter in phase.policies[name].weights().items():
            parameter.copy_(divided_like(values[key], parameter))
