"""Rows with references of other sizes, or of another number: each kind goes through the backbone alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffopd.types import Conditioning

Velocity = Callable[..., Tensor]


def one_shape_at_a_time(velocity: Velocity) -> Velocity:
    """Let a model's ``velocity`` take rows whose references differ in number or size.

    Token sequences of one forward are of one length. Filling shorter ones up would need a mask that not all
    attention kernels take; so rows are answered in one forward for each set of reference shapes, which gives
    each row what it gets alone.
    """

    @functools.wraps(velocity)
    def split(
        model: Any,
        latent: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        adapters: str | Sequence[str] | None = None,
    ) -> Tensor:
        groups = conditioning.rows_alike()
        if len(groups) <= 1:
            return velocity(model, latent, sigma, conditioning, adapters)
        each = None if adapters is None or isinstance(adapters, str) else adapters
        if each is not None and len(each) != len(latent):
            raise ValueError(
                f"adapters has {len(each)} names, the batch has {len(latent)} samples; give one name per "
                "sample"
            )
        answer = torch.empty(latent.shape, device=latent.device)
        for rows in groups:
            index = torch.tensor(rows).to(latent.device, non_blocking=True)
            names = adapters if each is None else [each[row] for row in rows]
            part = velocity(model, latent[index], sigma[index], conditioning.select(rows), names)
            answer = answer.index_copy(0, index, part)
        return answer

    return split
