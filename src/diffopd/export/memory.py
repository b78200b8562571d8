"""How much memory an export takes at most."""

from __future__ import annotations

import torch
from torch import nn

from diffopd.model import PipelineModel

GB = 1e9


def memory_needed(model: PipelineModel, compared_in: torch.dtype) -> str:
    """One line on the memory of the two greedy moments: encoding a prompt, comparing transformers.

    Args:
        model: The base model as loaded.
        compared_in: Precision of the transformers that are compared.
    """
    transformer, encoders = _bytes(model.transformer), sum(_bytes(encoder) for encoder in _encoders(model))
    compared = _bytes(model.transformer, compared_in)
    most = max(transformer + encoders, compared)
    return (
        f"memory on {model.device}: about {most / GB:.1f} GB (text encoders and transformer "
        f"{(transformer + encoders) / GB:.1f} GB, then one transformer in "
        f"{str(compared_in).removeprefix('torch.')} {compared / GB:.1f} GB), and activations"
    )


def _encoders(model: PipelineModel) -> list[nn.Module]:
    return [encoder for name in model.encoders if (encoder := getattr(model, name)) is not None]


def _bytes(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of parameters and buffers, as they are or in another floating-point precision."""
    tensors = [*module.parameters(), *module.buffers()]
    sizes = [dtype.itemsize if dtype and t.is_floating_point() else t.element_size() for t in tensors]
    return sum(tensor.numel() * size for tensor, size in zip(tensors, sizes, strict=True))
