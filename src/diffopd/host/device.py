"""Which device a setting names."""

from __future__ import annotations

import torch


def chosen_device(name: str, setting: str = "device") -> torch.device:
    """The device of a setting; ``auto`` is this process's GPU if there is one.

    Args:
        name: ``auto``, cpu, cuda, cuda:1, mps.
        setting: Its config path, for messages.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{setting}={name} is not a device: {error}") from error
