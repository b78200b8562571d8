"""The feed-forward layer of a fused block: two products with GELU between them, forward and backward.

GELU leaves its slope instead of being computed again. With ``bf16`` the inputs of the products, most of a
block's work, are rounded to bf16 inside the processor's kernels, where it has instructions for that; sums,
what is stored and everything else stay in fp32. Adapters lie on none of these layers, so no small change of
a weight is lost.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_TWICE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_SLOPE_AT_0 = torch.tensor(_TWICE)
_WORTH_ROUNDING = 512
"""Rows from which a product gains from bf16; below, rounding its inputs takes as long as it saves."""
_CHUNK = 192
"""Rows of the feed-forward layer that are worked on at once: 192 x 512 in fp32 stay in a core's L2 cache."""


def feed_forward(
    tokens: Tensor, widen: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], keep: bool, half: bool
) -> tuple[Tensor, Tensor | None]:
    """Two products with the tanh form of GELU between them, and GELU's slope if it is to be kept."""
    flat = tokens.view(-1, tokens.shape[-1])
    output = torch.empty_like(flat)
    slope = flat.new_empty(len(flat), len(widen[1])) if keep else None
    half = half and len(flat) >= _WORTH_ROUNDING
    size = len(flat) if half else min(len(flat), _CHUNK)
    wide = flat.new_empty(size, len(widen[1]))
    buffers = flat.new_empty(2, min(size, _CHUNK), len(widen[1]))
    slopes = [None] * len(flat) if slope is None else slope.split(size)
    with _products(half):
        for rows, place, kept in zip(flat.split(size), output.split(size), slopes, strict=False):
            inner = wide[: len(rows)]
            torch.addmm(widen[1], rows, widen[0].t(), out=inner)
            _gelu_in_parts_(inner, buffers, kept)
            torch.addmm(narrow[1], inner, narrow[0].t(), out=place)
    return output.view_as(tokens), slope


def feed_backward(
    gradient: Tensor, slope: Tensor, widen: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], half: bool
) -> Tensor:
    """Gradient with respect to the tokens."""
    flat = gradient.view(-1, gradient.shape[-1])
    output = torch.empty_like(flat)
    half = half and len(flat) >= _WORTH_ROUNDING
    size = len(flat) if half else min(len(flat), _CHUNK)
    wide = torch.empty_like(slope[:size])
    with _products(half):
        for rows, kept, place in zip(flat.split(size), slope.split(size), output.split(size), strict=True):
            inner = wide[: len(rows)]
            torch.mm(rows, narrow[0], out=inner)
            torch.mm(inner.mul_(kept), widen[0], out=place)
    return output.view_as(gradient)


@contextlib.contextmanager
def _products(half: bool) -> Iterator[None]:
    """Within this block fp32 products on the CPU may round their inputs to bf16."""
    mkldnn: Any = torch.backends.mkldnn
    setting = mkldnn.matmul
    before = setting.fp32_precision
    if half:
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def _gelu_in_parts_(wide: Tensor, buffers: Tensor, slope: Tensor | None) -> None:
    slopes = [None] * len(wide) if slope is None else slope.split(_CHUNK)
    for part, kept in zip(wide.split(_CHUNK), slopes, strict=False):
        _gelu_(part, buffers[0, : len(part)], buffers[1, : len(part)], kept)


def _gelu_(wide: Tensor, square: Tensor, sigmoid: Tensor, slope: Tensor | None) -> None:
    """GELU in its tanh form, in place, as ``x * sigmoid(2 z)``; its slope is written to ``slope``.

    ``1 + tanh(z) = 2 sigmoid(2 z)``, and a sigmoid takes a quarter of the time of PyTorch's own kernel.
    ``square`` and ``sigmoid`` are buffers.
    """
    torch.mul(wide, wide, out=square)
    torch.add(_SLOPE_AT_0, square, alpha=_TWICE * _CUBIC, out=sigmoid).mul_(wide).sigmoid_()
    wide.mul_(sigmoid)
    if slope is not None:  # s + x s (1 - s) (2 z)'
        torch.add(_SLOPE_AT_0, square, alpha=3 * _TWICE * _CUBIC, out=square)
        torch.addcmul(wide, wide, sigmoid, value=-1, out=slope)
        torch.addcmul(sigmoid, slope, square, out=slope)
