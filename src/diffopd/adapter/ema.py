"""Averages of an adapter over training: the exponential average, and DiffusionNFT's old policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor


def ema_decay(step: int, cap: float) -> float:
    """Decay with warm-up, ``min((1 + step) / (10 + step), cap)``.

    Args:
        step: Optimizer steps taken, 1 after the first update.
        cap: Largest decay, in [0, 1].

    References:
        Flow-GRPO's EMA, as used by DiffusionOPD's released code.

    Examples:
        >>> round(ema_decay(1, 0.9), 3), ema_decay(1000, 0.9)
        (0.182, 0.9)
    """
    return min((1 + step) / (10 + step), cap)


def ramp_decay(step: int, *, start: int, rate: float, cap: float) -> float:
    """Decay that is 0 before ``start`` and then grows by ``rate`` per step up to ``cap``.

    Examples:
        >>> [ramp_decay(step, start=2, rate=0.25, cap=0.5) for step in range(6)]
        [0.0, 0.0, 0.0, 0.25, 0.5, 0.5]
    """
    return min(rate * max(step - start, 0), cap)


def old_policy_decay(step: int, decay_type: int) -> float:
    """Decay of DiffusionNFT's old policy by the released types.

    Args:
        step: Optimizer steps taken.
        decay_type: 0 = the old policy is the current one; 1 = ``min(0.001 step, 0.5)``; 2 = 0 for 75 steps,
            then ``min(0.0075 (step - 75), 0.999)``.

    Raises:
        ValueError: For another type.

    References:
        Zheng et al., "DiffusionNFT", 2025, arXiv:2509.16117, and its released code.
    """
    if decay_type == 0:
        return 0.0
    if decay_type == 1:
        return ramp_decay(step, start=0, rate=0.001, cap=0.5)
    if decay_type == 2:
        return ramp_decay(step, start=75, rate=0.0075, cap=0.999)
    raise ValueError(f"decay_type={decay_type} is not known; choose 0, 1 or 2, or give start, rate and cap")


@torch.no_grad()
def blend(average: Mapping[str, Tensor], current: Mapping[str, Tensor], decay: float) -> None:
    """``average <- decay * average + (1 - decay) * current``, in place.

    Args:
        average: Overwritten; for an adapter, ``adapter_parameters(transformer, "ema")``.
        current: Same keys and shapes.
        decay: In [0, 1]; 0 copies.

    Raises:
        ValueError: If the keys differ.
    """
    if average.keys() != current.keys():
        raise ValueError(
            "the average and the current adapter have different layers; add both with one config"
        )
    for key, value in average.items():
        if decay == 0:
            value.copy_(current[key])  # also when the average holds no finite value yet
        else:
            value.sub_((1 - decay) * (value - current[key]))


@torch.no_grad()
def blend_in_bf16(average: Mapping[str, Tensor], current: Mapping[str, Tensor], decay: float) -> None:
    """The same average as a program computes it that keeps both sides in bf16.

    Of ``decay * average + (1 - decay) * current`` bf16 keeps 8 binary digits. With a decay of 0.9999 a move
    is smaller than half of the last one as soon as the average is about a twentieth of the current value, and
    is rounded away: this average stays there.

    Args:
        average: Overwritten.
        current: Same keys and shapes.
        decay: In [0, 1].

    References:
        "D-OPSD", 2026, arXiv:2605.05204, released code: ``lerp`` of adapters in bf16.
    """
    for key, value in average.items():
        value.copy_(torch.lerp(value.bfloat16(), current[key].bfloat16(), 1 - decay))


@final
class EMA:
    """Exponential average of an adapter, kept in a second adapter.

    Attributes:
        decay: Largest decay, in [0, 1): an average that keeps all of itself never moves.
        update_interval: Optimizer steps from one update to the next.
    """

    def __init__(self, *, decay: float, update_interval: int) -> None:
        if not 0 <= decay < 1 or update_interval < 1:
            raise ValueError(
                f"ema.decay={decay} must be in [0, 1) and ema.update_interval={update_interval} at least 1"
            )
        self.decay, self.update_interval = decay, update_interval

    def moves(self, step: int) -> int:
        """How often the average has moved after so many optimizer steps.

        Examples:
            >>> [EMA(decay=0.9, update_interval=8).moves(step) for step in (0, 6, 7, 14, 15)]
            [0, 0, 1, 1, 2]
        """
        return (step + 1) // self.update_interval - (1 if self.update_interval == 1 else 0)

    def update(self, average: Mapping[str, Tensor], current: Mapping[str, Tensor], step: int) -> bool:
        """Move the average if ``step`` is one at which it moves: with an interval of 8, 7, 15, 23, ...

        Args:
            average: Overwritten in place.
            current: The adapter in training.
            step: Optimizer steps taken, 1 after the first update. The released loops add the update to their
                counter and then call the average, so theirs moves after updates 7, 15, 23 as well.

        Returns:
            Whether it moved.
        """
        if (step + 1) % self.update_interval:
            return False
        blend(average, current, ema_decay(step, self.decay))
        return True
