"""Which blocks of a backbone are computed by :class:`FusedBlock`, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, RMSNorm
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from diffopd.model.adapter_rows import BASE
from diffopd.model.fused_block import Block, Factors, FusedBlock, Part, Stream

PRECISIONS_OF_PRODUCTS = ("fp32", "bf16")
"""Values of ``model.fused_blocks`` beside ``auto`` and null."""
AUTO = "auto"
"""Where blocks can be fused, ``bf16`` if the processor multiplies it and ``fp32`` if not.

Nothing where none can be fused, or they are compiled.
"""
INWARD = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))
NORMS = (("norm_q", "norm_k"), ("norm_added_q", "norm_added_k"))


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bf16."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def fusable(block: nn.Module) -> bool:
    """Whether a block is one of Stable Diffusion 3 on the CPU in fp32, frozen but for adapters.

    Others, such as blocks with a second attention or with adapters elsewhere, are computed as diffusers does.
    """
    if not isinstance(block, JointTransformerBlock) or block.attn2 is not None or block._chunk_size:
        return False
    attention: Any = block.attn
    norms = [getattr(attention, name) for names in NORMS for name in names]
    if not all(isinstance(norm, RMSNorm) and norm.weight is not None for norm in norms):
        return False
    projections = [getattr(attention, name) for names in INWARD for name in names]
    projections += [attention.to_out[0], *([] if block.context_pre_only else [attention.to_add_out])]
    adapted = [module for module in block.modules() if isinstance(module, LoraLayer)]
    if not all(any(module is known for known in projections) for module in adapted):
        return False
    if not all(
        isinstance(_base(layer), nn.Linear) and _base(layer).bias is not None for layer in projections
    ):
        return False
    factors = {id(p) for layer in adapted for d in (layer.lora_A, layer.lora_B) for p in d.parameters()}
    own = [parameter for parameter in block.parameters() if id(parameter) not in factors]
    return all(p.dtype == torch.float32 and p.device.type == "cpu" for p in block.parameters()) and not any(
        parameter.requires_grad for parameter in own
    )


class FusedBlocks:
    """Has a backbone's fusable blocks take the fused way for the length of a forward.

    Which they are is found out again only when the backbone, its adapters, device or training changes.

    Attributes:
        half: The feed-forward layers' products take bf16 inputs where the processor can.
    """

    def __init__(self, *, half: bool) -> None:
        self.half = half
        self._known: dict[int, tuple[tuple[Any, ...], list[Any]]] = {}

    @contextlib.contextmanager
    def active(self, transformer: nn.Module, runs: tuple[tuple[str, int], ...]) -> Iterator[None]:
        """Within this block the fusable blocks are fused, each run with its own adapter.

        Nothing of it outlasts the block, not even on an error. Gradient checkpointing recomputes a block
        after it has ended, so such a backbone is left alone.

        Args:
            transformer: The backbone.
            runs: ``(adapter, number of samples)`` in the order that the backbone sees.
        """
        blocks = self._of(transformer)
        try:
            for block in blocks:
                block.forward = _forward_of(block, runs, self.half)
            yield
        finally:
            for block in blocks:
                block.__dict__.pop("forward", None)

    def _of(self, transformer: Any) -> list[Any]:
        if getattr(transformer, "gradient_checkpointing", False):
            return []
        first = next(transformer.parameters())
        adapters = tuple(getattr(transformer, "peft_config", {}))
        state = (adapters, first.device, first.dtype, first.requires_grad)
        if self._known.get(id(transformer), ((), []))[0] != state:
            blocks = [block for block in getattr(transformer, "transformer_blocks", ()) if fusable(block)]
            self._known[id(transformer)] = (state, blocks)
        return self._known[id(transformer)][1]


def _forward_of(block: Any, runs: tuple[tuple[str, int], ...], half: bool) -> Any:
    def forward(
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: Any = None,
    ) -> tuple[Tensor | None, Tensor]:
        given = Block(
            streams=(_picture(block, temb, runs), _text(block, temb, runs)),
            runs=tuple(size for _, size in runs),
            heads=block.attn.heads,
            eps=block.attn.norm_q.eps,
            half=half,
        )
        picture, text = FusedBlock.apply(
            given, hidden_states.contiguous(), encoder_hidden_states.contiguous(), *given.factors()
        )  # type: ignore[misc]
        return text, picture

    return forward


def _picture(block: Any, temb: Tensor, runs: Any) -> Stream:
    return _stream(block, 0, block.attn.to_out[0], block.norm1, block.norm2, block.ff, temb, runs)


def _text(block: Any, temb: Tensor, runs: Any) -> Stream:
    if not block.context_pre_only:
        parts = (block.norm1_context, block.norm2_context, block.ff_context)
        return _stream(block, 1, block.attn.to_add_out, *parts, temb, runs)
    norm: AdaLayerNormContinuous = block.norm1_context
    scale, shift = norm.linear(norm.silu(temb)).chunk(2, dim=1)
    return Stream(
        inward=_inward(block, 1, runs),
        outward=None,
        norms=_norms(block, 1),
        shift=shift[:, None],
        scale=scale[:, None] + 1,
        eps=norm.norm.eps,
    )


def _stream(
    block: Any,
    place: int,
    outward: Any,
    norm: AdaLayerNormZero,
    norm_mlp: Any,
    feed: Any,
    temb: Tensor,
    runs: Any,
) -> Stream:
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = norm.linear(norm.silu(temb))[:, None].chunk(6, dim=2)
    return Stream(
        inward=_inward(block, place, runs),
        outward=_part(outward, runs),
        norms=_norms(block, place),
        shift=shift,
        scale=scale + 1,
        eps=norm.norm.eps,
        gate=gate,
        shift_mlp=shift_mlp,
        scale_mlp=scale_mlp + 1,
        gate_mlp=gate_mlp,
        widen=(feed.net[0].proj.weight, feed.net[0].proj.bias),
        narrow=(feed.net[2].weight, feed.net[2].bias),
        eps_mlp=norm_mlp.eps,
    )


def _inward(block: Any, place: int, runs: Any) -> Any:
    return tuple(_part(getattr(block.attn, name), runs) for name in INWARD[place])


def _norms(block: Any, place: int) -> Tensor:
    """The norms' weights, with the scale of the dot product in the query's, and ones for the value."""
    query, key = (getattr(block.attn, name).weight for name in NORMS[place])
    return torch.stack([query * query.shape[0] ** -0.5, key, torch.ones_like(key)])


def _part(layer: Any, runs: tuple[tuple[str, int], ...]) -> Part:
    base = _base(layer)
    return Part(base.weight, base.bias, tuple(_factors(layer, name) for name, _ in runs))


def _factors(layer: Any, name: str) -> Factors | None:
    if name == BASE or not isinstance(layer, LoraLayer) or name not in layer.lora_A:
        return None
    return Factors(layer.scaling[name], layer.lora_A[name].weight, layer.lora_B[name].weight)  # type: ignore[arg-type]


def _base(layer: Any) -> Any:
    return layer.base_layer if isinstance(layer, LoraLayer) else layer
