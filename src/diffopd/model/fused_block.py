"""A block of Stable Diffusion 3 with its backward written out: fewer passes, fewer tensors, larger matrices.

What autograd would do with some hundred small operations per block is done here with some fifty: queries,
keys and values of a stream are one product, their norms are taken together and written to where attention
reads them, and an adapter's two factors are added to the weight before the product, as the sum of both is
smaller than the tokens that would pass through each.

Names of shapes: batch, token (of the picture, of the text, or of both), width, head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffopd.model.fused_feed_forward import feed_backward, feed_forward


@dataclass(frozen=True)
class Factors:
    """An adapter on one linear layer: ``scale * up @ down`` is added to its weight."""

    scale: float
    down: Float[Tensor, "rank width"]
    up: Float[Tensor, "out rank"]


@dataclass(frozen=True)
class Part:
    """One linear layer of a projection, with the adapter of each run of samples, or None."""

    weight: Float[Tensor, "out width"]
    bias: Float[Tensor, " out"]
    factors: tuple[Factors | None, ...]


@dataclass(frozen=True)
class Stream:
    """The picture's, or the text's, half of a block.

    Attributes:
        inward: The layers to query, key and value.
        outward: The layer after attention; None if the stream ends here.
        norms: Weights of the RMS norms of query and key, with attention's scale in the first, and ones for
            the value, which has none.
        shift, scale: Modulation before attention; ``scale`` includes the 1; (batch, 1, width).
        gate: Of attention's output; None if the stream ends here.
        shift_mlp, scale_mlp, gate_mlp: The same around the feed-forward layer.
        widen, narrow: Weight and bias of the feed-forward layer's two products.
        eps, eps_mlp: Of the layer norms.
    """

    inward: tuple[Part, Part, Part]
    outward: Part | None
    norms: Float[Tensor, "3 head_width"]
    shift: Tensor
    scale: Tensor
    eps: float
    gate: Tensor | None = None
    shift_mlp: Tensor | None = None
    scale_mlp: Tensor | None = None
    gate_mlp: Tensor | None = None
    widen: tuple[Tensor, Tensor] | None = None
    narrow: tuple[Tensor, Tensor] | None = None
    eps_mlp: float = 0.0


@dataclass(frozen=True)
class Block:
    """All that a block's function needs beside its inputs.

    Attributes:
        streams: Picture and text.
        runs: Number of samples of each run of one adapter.
        heads: Attention heads.
        eps: Of the RMS norms.
        half: Products are in bf16 where no small change of a weight is lost by it: those of the feed-forward
            layers and of attention, and the backward ones of the projections.
    """

    streams: tuple[Stream, Stream]
    runs: tuple[int, ...]
    heads: int
    eps: float
    half: bool

    def parts(self) -> list[Part]:
        """Every layer that may have an adapter, in a fixed order."""
        found = []
        for stream in self.streams:
            found += [*stream.inward, *([stream.outward] if stream.outward else [])]
        return found

    def factors(self) -> list[Tensor]:
        """The adapters' factors in a fixed order, ``down`` before ``up``, to be inputs of the function."""
        held = (entry for part in self.parts() for entry in part.factors)
        return [tensor for entry in held if entry for tensor in (entry.down, entry.up)]


class FusedBlock(torch.autograd.Function):
    """The block as one function of both streams and of its adapters' factors.

    The modulation and the frozen weights get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, block: Block, picture: Tensor, text: Tensor, *factors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Picture and text after the block; None for a text that ends here."""
        inputs = (picture, text)
        ctx.kept = any(ctx.needs_input_grad)
        batch, width = picture.shape[0], picture.shape[2]
        lengths = [tokens.shape[1] for tokens in inputs]
        keep: dict[str, Any] = {"block": block, "lengths": lengths}
        kind = torch.bfloat16 if block.half else torch.float32
        joint = picture.new_empty(3, batch, block.heads, sum(lengths), width // block.heads, dtype=kind)
        for index, (stream, tokens, place) in enumerate(
            zip(block.streams, inputs, joint.split(lengths, dim=3), strict=True)
        ):
            normed, mean, rstd = torch.native_layer_norm(tokens, (width,), None, None, stream.eps)
            given = torch.addcmul(stream.shift, normed, stream.scale)
            layers = _Layers(stream.inward, block.runs)
            heads = layers(given).view(batch, -1, 3, block.heads, width // block.heads)
            norm = torch.linalg.vector_norm(heads[:, :, :2], dim=-1, keepdim=True)
            inverse = norm.square_().mul_(block.heads / width).add_(block.eps).rsqrt_()
            heads[:, :, :2].mul_(inverse)
            place.copy_((heads * stream.norms[:, None]).to(kind).permute(2, 0, 3, 1, 4))
            keep[f"before{index}"] = (tokens, mean, rstd, given, layers, heads, inverse)
        query, key, value = joint.flatten(1, 2)
        attention = torch.bmm(query, key.transpose(1, 2)).float().softmax(-1).to(kind)
        attended = torch.bmm(attention, value).view(batch, block.heads, -1, width // block.heads)
        keep["attention"] = (joint, attention)
        outputs = []
        for index, (stream, tokens, seen) in enumerate(
            zip(block.streams, inputs, attended.split(lengths, dim=2), strict=True)
        ):
            if stream.outward is None:
                outputs.append(None)
                continue
            seen = seen.transpose(1, 2).reshape(batch, -1, width).float()
            layers = _Layers([stream.outward], block.runs)
            between = torch.addcmul(tokens, stream.gate, layers(seen))  # type: ignore[arg-type]
            normed, mean, rstd = torch.native_layer_norm(between, (width,), None, None, stream.eps_mlp)
            given = torch.addcmul(stream.shift_mlp, normed, stream.scale_mlp)  # type: ignore[arg-type]
            fed, slope = feed_forward(given, stream.widen, stream.narrow, ctx.kept, block.half)  # type: ignore[arg-type]
            outputs.append(torch.addcmul(between, stream.gate_mlp, fed))  # type: ignore[arg-type]
            keep[f"after{index}"] = (seen, layers, between, mean, rstd, slope)
        ctx.keep = keep if ctx.kept else None
        return outputs[0], outputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        """Gradients with respect to picture, text and factors."""
        keep: dict[str, Any] = ctx.keep
        block: Block = keep["block"]
        joint, attention = keep["attention"]
        query, key, value = joint.flatten(1, 2)
        batch, width = joint.shape[1], joint.shape[2] * joint.shape[4]
        lengths = keep["lengths"]
        seen_gradient = joint.new_zeros(joint.shape[1:])
        passed: list[Tensor | None] = [None, None]
        of_outward: list[list[Tensor]] = [[], []]
        for index, (stream, place) in enumerate(
            zip(block.streams, seen_gradient.split(lengths, dim=2), strict=True)
        ):
            gradient = gradients[index]
            if stream.outward is None or gradient is None:
                continue
            assert stream.gate is not None
            assert stream.gate_mlp is not None
            assert stream.scale_mlp is not None
            assert stream.widen is not None
            assert stream.narrow is not None
            seen, layers, between, mean, rstd, slope = keep[f"after{index}"]
            inner = feed_backward(gradient * stream.gate_mlp, slope, stream.widen, stream.narrow)
            inner = _norm_backward(inner.mul_(stream.scale_mlp), between, mean, rstd).add_(gradient)
            said = inner * stream.gate
            back, of_outward[index] = layers.backward(said, seen, True, block.half)
            place.copy_(back.view(batch, -1, block.heads, width // block.heads).transpose(1, 2))
            passed[index] = inner
        flat = seen_gradient.flatten(0, 1)
        of_joint = torch.empty_like(joint)
        of_query, of_key, of_value = of_joint.flatten(1, 2)
        torch.bmm(attention.transpose(1, 2), flat, out=of_value)
        scores = torch.bmm(flat, value.transpose(1, 2))
        scores = torch.ops.aten._softmax_backward_data(scores, attention, -1, scores.dtype)
        torch.bmm(scores, key, out=of_query)
        torch.bmm(scores.transpose(1, 2), query, out=of_key)
        found: list[Any] = []
        inputs: list[Tensor | None] = []
        for index, (stream, part) in enumerate(
            zip(block.streams, of_joint.split(lengths, dim=3), strict=True)
        ):
            tokens, mean, rstd, given, layers, heads, inverse = keep[f"before{index}"]
            of_heads = part.permute(1, 3, 0, 2, 4).contiguous().float().mul_(stream.norms[:, None])
            normed, of_normed = heads[:, :, :2], of_heads[:, :, :2]
            along = (of_normed * normed).mean(-1, keepdim=True)
            of_normed.addcmul_(normed, along, value=-1).mul_(inverse)
            wanted = ctx.needs_input_grad[1 + index]
            back, of_inward = layers.backward(of_heads.flatten(2), given, wanted, block.half)
            found += of_inward + of_outward[index]
            if wanted:
                back = _norm_backward(back.mul_(stream.scale), tokens, mean, rstd)
                later = passed[index]
                back = back if later is None else back.add_(later)
            inputs.append(back if wanted else None)
        return (None, *inputs, *found)


class _Layers:
    """Linear layers of one input side by side, with each run's adapter, and their backward."""

    def __init__(self, parts: Sequence[Part], runs: Sequence[int]) -> None:
        self.parts, self.runs = parts, runs
        self.width = parts[0].weight.shape[0]
        self.bias = torch.cat([part.bias for part in parts])
        self.weights = [self._weight(run) for run in range(len(runs))]

    def _weight(self, run: int) -> Tensor:
        """The layers' weights one below the other, with the adapters of a run in them."""
        whole = self.bias.new_empty(len(self.bias), self.parts[0].weight.shape[1])
        for part, place in zip(self.parts, whole.split(self.width), strict=True):
            factors = part.factors[run]
            if factors is None:
                place.copy_(part.weight)
            else:
                torch.addmm(part.weight, factors.up, factors.down, alpha=factors.scale, out=place)
        return whole

    def __call__(self, tokens: Tensor) -> Tensor:
        """Each run of samples through its own weights."""
        output = tokens.new_empty(*tokens.shape[:2], len(self.bias))
        rows = zip(self.weights, tokens.split(self.runs), output.split(self.runs), strict=True)
        for weight, given, place in rows:
            flat = place.view(-1, len(self.bias))
            torch.addmm(self.bias, given.view(-1, tokens.shape[2]), weight.t(), out=flat)
        return output

    def backward(
        self, gradient: Tensor, tokens: Tensor, inward: bool, half: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients with respect to the tokens, if wanted, and to the factors as in :meth:`Block.factors`."""
        kind = torch.bfloat16 if half else torch.float32
        gradient, tokens = gradient.to(kind), tokens.to(kind)
        back = torch.empty_like(tokens)
        of_weights = []
        parts = (self.weights, gradient.split(self.runs), tokens.split(self.runs), back.split(self.runs))
        for weight, rows, given, place in zip(*parts, strict=True):
            flat = rows.reshape(-1, weight.shape[0])
            of_weight = flat.t() @ given.reshape(-1, weight.shape[1])
            of_weights.append(of_weight.float().split(self.width))
            if inward:
                torch.mm(flat, weight.to(kind), out=place.view(-1, weight.shape[1]))
        found = []
        for index, part in enumerate(self.parts):
            for run, factors in enumerate(part.factors):
                if factors is not None:
                    of_weight = of_weights[run][index].mul_(factors.scale)
                    found += [factors.up.t() @ of_weight, of_weight @ factors.down.t()]
        return back.float(), found


def _norm_backward(gradient: Tensor, tokens: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Backward of a layer norm without weights."""
    wanted = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(
        gradient, tokens, tokens.shape[-1:], mean, rstd, None, None, wanted
    )[0]
