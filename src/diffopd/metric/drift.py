"""Signs that a policy leaves the images it started from, whatever its reward says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def drift_signals(
    clean: Float[Tensor, " batch *latent"],
    images: Float[Tensor, " batch 3 height width"],
    groups: Sequence[int],
) -> dict[str, Float[Tensor, ""]]:
    """Means over a batch of samples.

    Args:
        clean: Latents of the samples.
        images: The same, decoded, in [0, 1].
        groups: Samples with equal numbers share a prompt.

    Returns:
        ``latent_norm``, root mean square of a latent; ``brightness``, mean pixel; ``contrast``, deviation of
        a sample's pixels; ``diversity``, mean root-mean-square pixel distance of two samples of one prompt,
        which falls to 0 as a policy collapses (0 without a group of two).

    Examples:
        >>> images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
        >>> {k: v.item() for k, v in drift_signals(images * 2, images, [0, 0]).items()}
        {'latent_norm': 1.0, 'brightness': 0.5, 'contrast': 0.0, 'diversity': 1.0}
    """
    flat = images.float().flatten(1)
    return {
        "latent_norm": clean.float().flatten(1).square().mean(1).sqrt().mean(),
        "brightness": flat.mean(),
        "contrast": flat.std(1, correction=0).mean(),
        "diversity": _diversity(flat, torch.as_tensor(groups)),
    }


def _diversity(flat: Float[Tensor, " batch pixel"], groups: Tensor) -> Float[Tensor, ""]:
    distances = [
        torch.pdist(flat[groups == group]) / flat.shape[1] ** 0.5
        for group in groups.unique()
        if (groups == group).sum() > 1
    ]
    return torch.cat(distances).mean() if distances else flat.new_zeros(())
