"""Which device a setting names."""

from __future__ import annotations

import torch

_KINDS = ("cpu", "cuda", "mps")


def chosen_device(name: str, setting: str = "device") -> torch.device:
    """The device of a setting; ``auto`` is this process's GPU if there is one.

    Args:
        name: ``auto``, cpu, cuda, cuda:1, mps.
        setting: Its config path, for messages.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in _KINDS or (index and not index.isdecimal()):
        raise ValueError(f"{setting}={name} is not a device; it is auto, cpu, cuda, cuda:<number> or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{setting}={name}: there is no Apple GPU that torch can use; take auto or cpu")
    num_gpus = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= num_gpus:
        there = f"has {num_gpus}, cuda:0 first" if num_gpus else "has no GPU that this torch can use"
        raise ValueError(f"{setting}={name}: this machine {there}; take auto or cpu, or a GPU that is there")
    return torch.device(name)
