"""Explicit randomness: every draw comes from a generator named by what it is for.

A generator derives from (seed, purpose, round, global sample index), so a sample's noise does not depend on
its neighbors, on the number of processes, or on what was drawn before a run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def derived_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for one purpose, the same on every machine and in every process."""
    name = "/".join([str(seed), purpose, *(str(int(i)) for i in indices)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator for one purpose; draw on the CPU and move, so that devices agree."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *indices))


def numpy_generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(derived_seed(seed, purpose, *indices))


def normal_rows(
    seed: int, purpose: str, round_index: int, sample_indices: Sequence[int], shape: Sequence[int]
) -> Float[Tensor, " batch *shape"]:
    """Standard normal noise with one independent generator a row.

    Args:
        seed: The run's seed.
        purpose: What the noise is for, e.g. ``"rollout/start"``.
        round_index: The training round, or an evaluation's image number.
        sample_indices: Global sample index of each row.
        shape: Shape of one row.

    Returns:
        Noise in fp32 on the CPU.
    """
    rows = [
        torch.randn(tuple(shape), generator=torch_generator(seed, purpose, round_index, i))
        for i in sample_indices
    ]
    return torch.stack(rows)


def uniform_rows(
    seed: int, purpose: str, round_index: int, sample_indices: Sequence[int], shape: Sequence[int] = ()
) -> Float[Tensor, " batch *shape"]:
    """Uniform numbers in [0, 1) with one independent generator a row."""
    rows = [
        torch.rand(tuple(shape), generator=torch_generator(seed, purpose, round_index, i))
        for i in sample_indices
    ]
    return torch.stack(rows)
