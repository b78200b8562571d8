"""A small random transformer of each family, and the layers of each as its authors' release names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from diffusers.loaders import single_file_utils
from torch import Tensor, nn


def sd3() -> SD3Transformer2DModel:
    """Width 16; the first of two blocks has a second attention, the last has no context after it."""
    sizes = {"sample_size": 4, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8}
    sizes |= {"joint_attention_dim": 24, "caption_projection_dim": 16, "pooled_projection_dim": 20}
    return SD3Transformer2DModel(
        **sizes, num_attention_heads=2, pos_embed_max_size=4, dual_attention_layers=(0,)
    )


def flux() -> FluxTransformer2DModel:
    sizes = {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8}
    sizes |= {"num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 6}
    return FluxTransformer2DModel(**sizes, axes_dims_rope=(4, 2, 2), guidance_embeds=True)


def flux2() -> Flux2Transformer2DModel:
    sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8}
    sizes |= {"num_attention_heads": 2, "joint_attention_dim": 24, "timestep_guidance_channels": 8}
    return Flux2Transformer2DModel(**sizes, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=True)


def z_image() -> ZImageTransformer2DModel:
    sizes = {"n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 8}
    return ZImageTransformer2DModel(
        in_channels=4, dim=16, axes_dims=[4, 2, 2], axes_lens=[128, 16, 16], **sizes
    )


def qwen_image() -> QwenImageTransformer2DModel:
    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 8}
    return QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, axes_dims_rope=(2, 2, 4), **sizes
    )


BUILDERS = {"sd3": sd3, "flux": flux, "flux2": flux2, "z_image": z_image, "qwen_image": qwen_image}

_SD3_BLOCK = {
    "x_block.attn.qkv": (48, 16),
    "x_block.attn.proj": (16, 16),
    "x_block.mlp.fc1": (64, 16),
    "x_block.mlp.fc2": (16, 64),
    "context_block.attn.qkv": (48, 16),
}
_FLUX_ENDS = {
    "final_layer.adaLN_modulation.1": (32, 16),
    "double_blocks.0.img_attn.qkv": (48, 16),
    "double_blocks.0.img_attn.proj": (16, 16),
    "double_blocks.0.txt_attn.qkv": (48, 16),
    "double_blocks.0.txt_attn.proj": (16, 16),
    "time_in.out_layer": (16, 16),
    "guidance_in.out_layer": (16, 16),
}
RELEASED: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "sd3": {
        "context_embedder": (16, 24),
        "t_embedder.mlp.0": (16, 256),
        "t_embedder.mlp.2": (16, 16),
        "y_embedder.mlp.0": (16, 20),
        "y_embedder.mlp.2": (16, 16),
        "final_layer.linear": (16, 16),
        "final_layer.adaLN_modulation.1": (32, 16),
        **{f"joint_blocks.0.{name}": shape for name, shape in _SD3_BLOCK.items()},
        "joint_blocks.0.x_block.attn2.qkv": (48, 16),
        "joint_blocks.0.x_block.attn2.proj": (16, 16),
        "joint_blocks.0.x_block.adaLN_modulation.1": (144, 16),
        "joint_blocks.0.context_block.attn.proj": (16, 16),
        "joint_blocks.0.context_block.mlp.fc1": (64, 16),
        "joint_blocks.0.context_block.mlp.fc2": (16, 64),
        "joint_blocks.0.context_block.adaLN_modulation.1": (96, 16),
        **{f"joint_blocks.1.{name}": shape for name, shape in _SD3_BLOCK.items()},
        "joint_blocks.1.x_block.adaLN_modulation.1": (96, 16),
        "joint_blocks.1.context_block.adaLN_modulation.1": (32, 16),
    },
    "flux": {
        **_FLUX_ENDS,
        "img_in": (16, 4),
        "txt_in": (16, 12),
        "time_in.in_layer": (16, 256),
        "vector_in.in_layer": (16, 6),
        "vector_in.out_layer": (16, 16),
        "guidance_in.in_layer": (16, 256),
        "final_layer.linear": (4, 16),
        "double_blocks.0.img_mlp.0": (64, 16),
        "double_blocks.0.img_mlp.2": (16, 64),
        "double_blocks.0.img_mod.lin": (96, 16),
        "double_blocks.0.txt_mlp.0": (64, 16),
        "double_blocks.0.txt_mlp.2": (16, 64),
        "double_blocks.0.txt_mod.lin": (96, 16),
        "single_blocks.0.linear1": (112, 16),
        "single_blocks.0.linear2": (16, 80),
        "single_blocks.0.modulation.lin": (48, 16),
    },
    "flux2": {
        **_FLUX_ENDS,
        "img_in": (16, 16),
        "txt_in": (16, 24),
        "time_in.in_layer": (16, 8),
        "guidance_in.in_layer": (16, 8),
        "final_layer.linear": (16, 16),
        "double_stream_modulation_img.lin": (96, 16),
        "double_stream_modulation_txt.lin": (96, 16),
        "single_stream_modulation.lin": (48, 16),
        "double_blocks.0.img_mlp.0": (96, 16),
        "double_blocks.0.img_mlp.2": (16, 48),
        "double_blocks.0.txt_mlp.0": (96, 16),
        "double_blocks.0.txt_mlp.2": (16, 48),
        "single_blocks.0.linear1": (144, 16),
        "single_blocks.0.linear2": (16, 64),
    },
    "z_image": {
        "x_embedder": (16, 16),
        "final_layer.linear": (16, 16),
        "final_layer.adaLN_modulation.1": (16, 16),
        "t_embedder.mlp.0": (1024, 256),
        "t_embedder.mlp.2": (16, 1024),
        "cap_embedder.1": (16, 8),
        **{
            f"{blocks}.0.{name}": shape
            for blocks in ("layers", "noise_refiner", "context_refiner")
            for name, shape in {
                "attention.qkv": (48, 16),
                "attention.out": (16, 16),
                "feed_forward.w1": (42, 16),
                "feed_forward.w2": (16, 42),
                "feed_forward.w3": (42, 16),
                "adaLN_modulation.0": (64, 16),
            }.items()
            if (blocks, name) != ("context_refiner", "adaLN_modulation.0")
        },
    },
}
"""Family -> name of a linear layer in the release -> shape of its weight."""


def in_diffusers(family: str, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the release's layers as diffusers' converter of whole checkpoints places them.

    Args:
        family: One of those with a release of its own names.
        changes: Name in the release -> weight; the others are 0.
    """
    checkpoint: dict[str, Any] = {}
    for name, shape in RELEASED[family].items():
        checkpoint[f"{name}.weight"] = changes.get(name, torch.zeros(shape)).clone()
        if family in ("sd3", "flux"):
            checkpoint[f"{name}.bias"] = torch.zeros(shape[0])
    if family == "sd3":
        for name in ("pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias"):
            checkpoint[name] = torch.zeros(1)
    single: dict[str, Tensor] = {}
    if family == "flux":
        for layer in ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0"):
            for norm in ("query_norm", "key_norm"):
                checkpoint[f"{layer}.norm.{norm}.scale"] = torch.zeros(1)
        # The converter knows the rows of the full size alone: query, key, value, each 3072, and the rest.
        rows = checkpoint["single_blocks.0.linear1.weight"]
        checkpoint["single_blocks.0.linear1.weight"] = torch.zeros(21504, 1)
        checkpoint["single_blocks.0.linear1.bias"] = torch.zeros(21504)
        block = "single_transformer_blocks.0"
        single = {f"{block}.attn.to_q.weight": rows[:16], f"{block}.attn.to_k.weight": rows[16:32]}
        single |= {f"{block}.attn.to_v.weight": rows[32:48], f"{block}.proj_mlp.weight": rows[48:]}
    convert = getattr(single_file_utils, f"convert_{family}_transformer_checkpoint_to_diffusers")
    return {**convert(checkpoint), **single}


def linear_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer by its name."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
