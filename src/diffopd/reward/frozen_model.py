"""What scorers with weights of their own share: where these are, on which device, in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from diffopd.files import resolve_path

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def weights_place(path: str, setting: str) -> str:
    """A local folder, or a hub id as it is.

    Args:
        path: A folder with ``config.json``, ``package://...`` or a hub id.
        setting: Where it is named in the config.

    Raises:
        ValueError: If it is no folder with a ``config.json``, and no hub id either.
    """
    place = Path(resolve_path(path))
    if place.is_dir():
        if not (place / "config.json").is_file():
            raise ValueError(
                f"{setting}={path}: {place} holds no config.json; give a folder that transformers wrote"
            )
        return str(place)
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        return path
    raise ValueError(
        f"{setting}={path}: there is no such folder ({place.absolute()}), and it is no hub id either"
    )


def chosen_device(name: str, setting: str) -> torch.device:
    """The device of a setting; ``auto`` is this process's GPU if there is one.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        return (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{setting}={name} is not a device: {error}") from error


def chosen_dtype(name: str, setting: str) -> torch.dtype:
    """The precision of a setting.

    Raises:
        ValueError: If there is no such precision.
    """
    if name not in DTYPES:
        raise ValueError(f"{setting}={name} is not known; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def load_frozen(
    kind: Any, path: str, *, revision: str | None, device: torch.device, dtype: torch.dtype, setting: str
) -> Any:
    """A transformers model from safetensors, in evaluation mode and without gradients.

    Args:
        kind: The model's class.
        path: As :func:`weights_place` returns it.
        revision: Branch, tag or commit on the hub; None = its main branch.
        device: Where it goes.
        dtype: Precision of its weights.
        setting: Where it is named in the config.

    Raises:
        ValueError: If it cannot be loaded, e.g. because there are only pickled weights.
    """
    try:
        with _without_progress_bars():
            model = kind.from_pretrained(
                path,
                revision=revision,
                use_safetensors=True,
                dtype=dtype,
                local_files_only=Path(path).is_dir(),
            )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{setting}={path} cannot be loaded as a {kind.__name__} from safetensors: {error}"
        ) from error
    return model.to(device).eval().requires_grad_(False)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
