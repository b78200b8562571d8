"""Latents as backbones and autoencoders take them: in tokens of 2 x 2 cells, at the autoencoder's scale."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor


def pack(
    latents: Float[Tensor, " batch channel height width"],
) -> Float[Tensor, " batch token four_channel"]:
    """One token for each square of 2 x 2 cells, row by row; it lists each channel's four cells in turn."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(
    tokens: Float[Tensor, " batch token four_channel"], height: int, width: int
) -> Float[Tensor, " batch channel height width"]:
    """The latents of ``height`` x ``width`` cells whose tokens these are; the inverse of :func:`pack`."""
    batch, _, size = tokens.shape
    cells = tokens.reshape(batch, height // 2, width // 2, size // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, size // 4, height, width)


def scaled_to_vae(latents: Tensor, config: Any) -> Tensor:
    """Latents as an ``AutoencoderKL`` decodes them: its scale and shift undone."""
    return latents / config.scaling_factor + (config.shift_factor or 0.0)


def scaled_from_vae(raw: Tensor, config: Any) -> Tensor:
    """The inverse of :func:`scaled_to_vae`."""
    return (raw - (config.shift_factor or 0.0)) * config.scaling_factor
