"""Rewards made comparable within a group of samples of one prompt.

References:
    Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470; Zheng et al., "DiffusionNFT", 2025, arXiv:2509.16117.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

STD_FLOOR = 1e-4
"""Added to every standard deviation, so that equal rewards give advantage 0 instead of 0 / 0."""

StdScope = Literal["global", "group"]
AdvantageMode = Literal["all", "positive_only", "negative_only", "one_only", "binary"]


def advantages(
    rewards: Float[Tensor, " batch"], groups: Int[Tensor, " batch"] | Sequence[int], *, std: StdScope
) -> Float[Tensor, " batch"]:
    """Group-normalised advantages, or batch-normalised ones where every group has a single sample.

    Args:
        rewards: One per sample. With several processes, gather them first: the statistics are of all samples.
        groups: Samples with equal numbers share a prompt.
        std: Whether to divide by the deviation over ``"global"`` all samples or over each ``"group"``.

    Returns:
        Advantages in units of standard deviations; no gradient.

    Examples:
        >>> advantages(torch.tensor([0.0, 2.0, 5.0, 7.0]), [0, 0, 1, 1], std="group")
        tensor([-0.9999,  0.9999, -0.9999,  0.9999])
    """
    ids = torch.as_tensor(groups)
    if ids.unique().numel() == ids.numel() > 1:
        return batch_advantages(rewards)
    return group_advantages(rewards, ids, std=std)


def group_advantages(
    rewards: Float[Tensor, " batch"], groups: Int[Tensor, " batch"] | Sequence[int], *, std: StdScope
) -> Float[Tensor, " batch"]:
    """``(reward - group mean) / (std + 1e-4)``, in float64 inside; 0 for a group of one.

    Raises:
        ValueError: If ``std`` is unknown or ``groups`` does not give one number per reward.
    """
    if std not in get_args(StdScope):
        raise ValueError(f"std must be one of {get_args(StdScope)}, got {std!r}")
    ids = torch.as_tensor(groups, device=rewards.device)
    if ids.shape != rewards.shape:
        raise ValueError(
            f"groups must give one number per reward, got {tuple(ids.shape)} and {tuple(rewards.shape)}"
        )
    values = rewards.detach().double()
    members, row = ids.unique(return_inverse=True)

    def group_mean(x: Tensor) -> Tensor:
        total = torch.zeros(len(members), dtype=x.dtype, device=x.device).index_add_(0, row, x)
        return (total / row.bincount(minlength=len(members)))[row]

    centred = values - group_mean(values)
    spread = values.std(correction=0) if std == "global" else group_mean(centred.square()).sqrt()
    return (centred / (spread + STD_FLOOR)).to(rewards.dtype)


def batch_advantages(rewards: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """``(reward - mean) / (std + 1e-4)`` over all samples."""
    values = rewards.detach().double()
    return ((values - values.mean()) / (values.std(correction=0) + STD_FLOOR)).to(rewards.dtype)


def clip_advantages(
    advantage: Float[Tensor, " batch"], *, clip: float, mode: AdvantageMode
) -> Float[Tensor, " batch"]:
    """Clipped advantages, seen through one of DiffusionNFT's modes.

    Args:
        advantage: Normalized advantages.
        clip: Largest magnitude kept, in standard deviations.
        mode: ``all`` keeps both signs; ``positive_only`` and ``negative_only`` keep one and zero the other;
            ``one_only`` is 1 for better than average, else 0; ``binary`` is the sign.

    Raises:
        ValueError: If ``mode`` is unknown.

    Examples:
        >>> clip_advantages(torch.tensor([-7.0, 0.0, 2.0]), clip=5.0, mode="all")
        tensor([-5.,  0.,  2.])
    """
    match mode:
        case "all":
            return advantage.clamp(-clip, clip)
        case "positive_only":
            return advantage.clamp(0, clip)
        case "negative_only":
            return advantage.clamp(-clip, 0)
        case "one_only":
            return (advantage > 0).to(advantage.dtype)
        case "binary":
            return advantage.sign()
    raise ValueError(f"advantage mode must be one of {get_args(AdvantageMode)}, got {mode!r}")
