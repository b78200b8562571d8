"""Precisions by the names that the config has for them."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_dtype(name: str, setting: str) -> torch.dtype:
    """The torch dtype called ``name``.

    Args:
        name: fp32, bf16 or fp16.
        setting: Where in the config it is named, for the message.

    Raises:
        ValueError: If there is no such precision.

    Examples:
        >>> parse_dtype("bf16", "model.dtype")
        torch.bfloat16
    """
    if name not in PRECISIONS:
        raise ValueError(f"{setting}={name} must be one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
