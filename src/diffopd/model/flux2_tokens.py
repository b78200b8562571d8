"""How FLUX.2's transformer is asked: picture, references and text as tokens with their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

REFERENCE_STEP = 10
"""Frames from one reference to the next in the position embedding; the picture itself is frame 0."""


def flux2_velocity(
    transformer: Any,
    latent: Float[Tensor, " batch channels height width"],
    sigma: Float[Tensor, " batch"],
    embeds: Float[Tensor, " batch token joint_width"],
    references: Sequence[Tensor] = (),
) -> Float[Tensor, " batch channels height width"]:
    """The transformer's velocity of the picture.

    Image tokens are placed by frame, row and column, text tokens by their position; each reference's tokens
    follow the picture's, in a frame of their own.

    Args:
        transformer: A ``Flux2Transformer2DModel`` without guidance embedding.
        latent: Noisy states.
        sigma: Their noise.
        embeds: Encoded prompts.
        references: The first reference of every row, the second of every row, and so on; each (batch,
            channels, rows, columns), of a size of its own.
    """
    device, (height, width) = latent.device, latent.shape[2:]
    frames = [latent, *references]
    places = [
        _places((1, frame.shape[2], frame.shape[3], 1), device, number * REFERENCE_STEP)
        for number, frame in enumerate(frames)
    ]
    tokens = transformer(
        hidden_states=torch.cat([frame.flatten(2).transpose(1, 2) for frame in frames], 1),
        timestep=sigma,
        guidance=None,
        encoder_hidden_states=embeds,
        txt_ids=_places((1, 1, 1, embeds.shape[1]), device),
        img_ids=torch.cat(places),
        return_dict=False,
    )[0]
    return tokens[:, : height * width].transpose(1, 2).unflatten(2, (height, width))


def _places(sizes: tuple[int, int, int, int], device: torch.device, frame: int = 0) -> Tensor:
    """Frame, row, column and text position of each token."""
    places = torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes))
    places[:, 0] += frame
    return places
