"""Read a file of released weights without running what it may hold."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = ("state_dict", "model")
"""Keys under which training code puts a state dict."""


def read_released(file: Path, *, setting: str) -> dict[str, Tensor]:
    """The state dict in a released file, a pickle or safetensors.

    A pickle is read with ``weights_only=True``: tensors, numbers, strings and plain containers; anything else
    in it is an error and is not run.

    Args:
        file: The file.
        setting: How the user named it, for messages.

    Returns:
        Name -> tensor, on the CPU, as in the file.

    Raises:
        ValueError: If the file is not there, or holds something else than a plain state dict.
    """
    if not file.is_file():
        raise ValueError(f"{setting}={file}: there is no such file ({file.absolute()})")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{setting}={file} is not a safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles that torch did not write
            found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{setting}={file} is not a plain state dict: {reason}. Only tensors, numbers, strings and plain "
            "containers are read; save module.state_dict() instead of the module"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{setting}={file} holds a {type(found).__name__}, not a state dict of names and tensors"
        )
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{setting}={file} is not a plain state dict: {name!r} is a {type(value).__name__}, "
                "not a tensor"
            )
    return dict(found)
