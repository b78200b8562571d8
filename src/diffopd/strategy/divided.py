"""Tensors in parts, one on each process: put together, taken apart, left out of a state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

Tree = Any
"""Dicts, lists and tuples of tensors and plain values."""


def whole_value(tensor: Tensor) -> Tensor:
    """A tensor with all of its values; if it is in parts all processes call this, and each has the result."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process: all of it, if it is not in parts."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def in_parts(module: nn.Module) -> bool:
    """Whether a module's parameters are in parts."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def divided_like(value: Tensor, like: Tensor) -> Tensor:
    """Take a tensor apart as another one is, without a transfer: every process has all of its values.

    Args:
        value: Of the shape of ``like``.
        like: In parts, or not; then ``value`` is returned as it is.
    """
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def gathered(tree: Tree) -> Tree:
    """A state for the first process to save: what is in parts is put together there, on the CPU.

    All processes call this, and visit the same tensors in one order. One tensor at a time is whole on the
    device. The other processes get None in the place of a tensor that was in parts.
    """
    if isinstance(tree, DTensor):
        value = tree.full_tensor()
        return value.detach().cpu() if distributed.get_rank() == 0 else None
    if type(tree) in (dict, OrderedDict):
        return type(tree)((key, gathered(value)) for key, value in tree.items())
    if type(tree) in (list, tuple):
        return type(tree)(gathered(value) for value in tree)
    return tree


def assembled(module: Any) -> Any:
    """A diffusers model for the first process to save: itself, or put together on the CPU if it is in parts.

    All processes call this; in the others what is returned has no values.
    """
    if not in_parts(module):
        return module
    values = gathered(module.state_dict())
    kind: Any = next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        whole = kind.from_config(module.config)
    if distributed.get_rank() == 0:
        whole.load_state_dict(values, assign=True)
    return whole


def load_into_parts(module: nn.Module) -> None:
    """Have ``module.load_state_dict`` take whole tensors for parameters that are in parts."""

    def take_apart(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
        held = dict(module.named_parameters())
        for key in state:
            like = held.get(key.removeprefix(prefix))
            if like is not None and isinstance(state[key], Tensor):
                state[key] = divided_like(state[key], like)

    module.register_load_state_dict_pre_hook(take_apart)


def leave_out_parts(module: nn.Module, but: Callable[[str], bool]) -> None:
    """Leave what is in parts out of a module's state dict.

    Args:
        module: Any.
        but: Whether an entry of that name stays.
    """

    def leave_out(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        for name in [name for name, value in state.items() if isinstance(value, DTensor) and not but(name)]:
            del state[name]

    module.register_state_dict_post_hook(leave_out)


def gather_state_dict(module: nn.Module) -> None:
    """Have a module's state dict as :func:`gathered` gives it, whenever it is asked for from here on."""

    def gather(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        state.update(gathered(dict(state)))

    module.register_state_dict_post_hook(gather)


def optimizer_state_in_parts(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
    """A saved state of an optimizer, taken apart as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def of(number: int, entries: Mapping[str, Any]) -> dict[str, Any]:
        like = parameters[number]
        return {
            name: divided_like(value, like)
            if isinstance(value, Tensor) and value.shape == like.shape
            else value
            for name, value in entries.items()
        }

    return {**state, "state": {number: of(number, entries) for number, entries in state["state"].items()}}


def inner_products(vectors: Tensor, *, parts: bool) -> Tensor:
    """Inner products of some vectors with each other, ``(vectors, vectors)``.

    Args:
        vectors: One per row.
        parts: Whether each process has a part of every vector's values, and not all of them.
    """
    products = vectors @ vectors.T
    if parts:
        distributed.all_reduce(products)
    return products


def bytes_held(module: nn.Module) -> int:
    """Bytes of a module's parameters that lie on this process."""
    parts = (own_part(parameter) for parameter in module.parameters())
    return sum(part.numel() * part.element_size() for part in parts)
