"""At which noise levels clean latents are trained: each row's own, from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import shift_sigma
from diffopd.randomness import normal_rows, uniform_rows


def logit_normal_levels(
    seed: int,
    purpose: str,
    round_index: int,
    indices: Sequence[int],
    *,
    location: int | float,
    scale: int | float,
    shift: int | float,
) -> Float[Tensor, " batch"]:
    """``shift(1 / (1 + exp(-n)))`` for normal ``n``: mostly middle levels, moved by the grid's shift.

    Args:
        seed: Of the run.
        purpose: What they are for.
        round_index: The round.
        indices: Global sample index of each row.
        location: Mean of ``n``.
        scale: Its standard deviation.
        shift: The sampler's.

    References:
        Esser et al., 2024, arXiv:2403.03206.
    """
    normal = normal_rows(seed, purpose, round_index, indices, (1,))[:, 0]
    return shift_sigma(torch.sigmoid(location + scale * normal), shift)


def grid_levels(
    seed: int,
    purpose: str,
    round_index: int,
    indices: Sequence[int],
    sigmas: Float[Tensor, " steps_plus_one"],
) -> Float[Tensor, " batch"]:
    """One of the levels at which a rollout has its states, each as likely: those that a few-step model knows.

    Args:
        seed: Of the run.
        purpose: What they are for.
        round_index: The round.
        indices: Global sample index of each row.
        sigmas: The sampler's grid, from 1 to 0; its end is no state.
    """
    draws = uniform_rows(seed, purpose, round_index, indices, (1,))[:, 0]
    num_states = len(sigmas) - 1
    return sigmas[(draws * num_states).long().clamp_max(num_states - 1)]
