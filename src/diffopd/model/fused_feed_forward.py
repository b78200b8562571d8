"""The feed-forward layer of a fused block: two products with GELU between them, forward and backward.

GELU leaves its slope instead of being computed again. With ``half`` what enters and what leaves the products
is rounded to bf16, which processors with instructions for it multiply at twice the rate; GELU, biases and
everything between blocks stay in fp32. Adapters lie on none of these layers, so no small change of a weight
is lost. (``torch.backends.mkldnn`` can also be allowed to round by itself, but does so on few processors.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TWICE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_SLOPE_AT_0 = torch.tensor(_TWICE)
_CHUNK = 192
"""Rows of the feed-forward layer that are worked on at once: 192 x 512 in fp32 stay in a core's L2 cache."""
_ROUNDED_CHUNK = 768
"""The same in bf16, where GELU alone is in parts; longer ones, as several threads share these better."""


def feed_forward(
    tokens: Tensor, widen: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], keep: bool, half: bool
) -> tuple[Tensor, Tensor | None]:
    """Two products with the tanh form of GELU between them, and GELU's slope if it is to be kept."""
    flat = tokens.view(-1, tokens.shape[-1])
    work = _rounded_forward if half else _forward
    output, slope = work(flat, widen, narrow, keep)
    return output.view_as(tokens), slope


def feed_backward(
    gradient: Tensor, slope: Tensor, widen: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor]
) -> Tensor:
    """Gradient with respect to the tokens, rounded as the forward was that left ``slope``."""
    flat = gradient.view(-1, gradient.shape[-1])
    if slope.dtype == torch.bfloat16:
        inner = torch.mm(flat.bfloat16(), narrow[0].bfloat16()).mul_(slope)
        return torch.mm(inner, widen[0].bfloat16()).float().view_as(gradient)
    output = torch.empty_like(flat)
    wide = torch.empty_like(slope[:_CHUNK])
    parts = (flat.split(_CHUNK), slope.split(_CHUNK), output.split(_CHUNK))
    for rows, kept, place in zip(*parts, strict=True):
        inner = wide[: len(rows)]
        torch.mm(rows, narrow[0], out=inner)
        torch.mm(inner.mul_(kept), widen[0], out=place)
    return output.view_as(gradient)


def _forward(
    flat: Tensor, widen: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], keep: bool
) -> tuple[Tensor, Tensor | None]:
    output = torch.empty_like(flat)
    slope = flat.new_empty(len(flat), len(widen[1])) if keep else None
    wide, square, sigmoid = flat.new_empty(3, min(len(flat), _CHUNK), len(widen[1]))
    for start in range(0, len(flat), _CHUNK):
        rows, place = flat[start : start + _CHUNK], output[start : start + _CHUNK]
        inner = wide[: len(rows)]
        torch.addmm(widen[1], rows, widen[0].t(), out=inner)
        kept = None if slope is None else slope[start : start + _CHUNK]
        _gelu_(inner, square[: len(rows)], sigmoid[: len(rows)], kept)
        torch.addmm(narrow[1], inner, narrow[0].t(), out=place)
    return output, slope


def _rounded_forward(
    flat: Tensor, widen: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], keep: bool
) -> tuple[Tensor, Tensor | None]:
    """The same in bf16 but for GELU: products whole, which is fastest, GELU on one part after the other."""
    wide = torch.mm(flat.bfloat16(), widen[0].bfloat16().t())
    slope = torch.empty_like(wide) if keep else None
    inner, square, sigmoid, steep = flat.new_empty(4, min(len(flat), _ROUNDED_CHUNK), wide.shape[1])
    for start in range(0, len(flat), _ROUNDED_CHUNK):
        part = wide[start : start + _ROUNDED_CHUNK]
        size = len(part)
        given = inner[:size].copy_(part).add_(widen[1])
        _gelu_(given, square[:size], sigmoid[:size], steep[:size] if keep else None)
        part.copy_(given)
        if slope is not None:
            slope[start : start + _ROUNDED_CHUNK].copy_(steep[:size])
    return torch.mm(wide, narrow[0].bfloat16().t()).float().add_(narrow[1]), slope


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
