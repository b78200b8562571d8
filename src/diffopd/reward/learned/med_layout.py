"""BLIP's vision transformer and MED text encoder, as ImageReward is released, in transformers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import BlipConfig

from diffopd.reward.learned.linear_head import head_tensors

VISION_HEADS, TEXT_HEADS = 16, 12
"""Attention heads of ViT-L and of BERT-base; a state dict does not tell."""

VISION_EPS, TEXT_EPS = 1e-6, 1e-12
"""Of layer normalization there; transformers' own BLIP has 1e-5 for vision."""

UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""Beginnings of names that pretraining used, or that can be counted out."""

_VISION = "blip.visual_encoder."
_TEXT = "blip.text_encoder."
_WHOLE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def from_med(released: Mapping[str, Tensor]) -> tuple[BlipConfig, dict[str, Tensor]]:
    """The config and tensors of an ``ImageRewardNetwork`` from the released state dict.

    Returns:
        Sizes are read from the tensors. Names that are not known are left as they are.

    Raises:
        ValueError: If what tells the sizes is missing, or the head is another.
    """
    head = {name.removeprefix("mlp."): tensor for name, tensor in released.items() if name.startswith("mlp.")}
    tensors = {f"head.{name}": tensor for name, tensor in head_tensors(head).items()}
    for name, tensor in released.items():
        if not name.startswith(("mlp.", *UNUSED)):
            tensors[_renamed(name)] = tensor
    try:
        config = _config(released)
    except KeyError as error:
        raise ValueError(f"ImageReward's state dict is needed; it lacks {error.args[0]}") from error
    return config, tensors


def _renamed(name: str) -> str:
    if name.startswith(_TEXT):
        return f"text_encoder.{name.removeprefix(_TEXT)}"
    if not name.startswith(_VISION):
        return name
    rest = name.removeprefix(_VISION)
    if rest in _WHOLE:
        return f"vision_model.{_WHOLE[rest]}"
    blocks, _, place = rest.partition(".")
    number, _, inner = place.partition(".")
    stem, _, kind = inner.rpartition(".")
    if blocks == "blocks" and stem in _BLOCK:
        return f"vision_model.encoder.layers.{number}.{_BLOCK[stem]}.{kind}"
    return name


def _config(released: Mapping[str, Tensor]) -> BlipConfig:
    patches = released[f"{_VISION}patch_embed.proj.weight"]
    grid = math.isqrt(released[f"{_VISION}pos_embed"].shape[1] - 1)
    vocabulary, width = released[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    config = BlipConfig(
        vision_config={
            "hidden_size": patches.shape[0],
            "intermediate_size": released[f"{_VISION}blocks.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _depth(released, f"{_VISION}blocks."),
            "num_attention_heads": VISION_HEADS,
            "image_size": grid * patches.shape[-1],
            "patch_size": patches.shape[-1],
            "hidden_act": "gelu",
            "layer_norm_eps": VISION_EPS,
        },
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": width,
            "encoder_hidden_size": patches.shape[0],
            "intermediate_size": released[f"{_TEXT}encoder.layer.0.intermediate.dense.weight"].shape[0],
            "num_hidden_layers": _depth(released, f"{_TEXT}encoder.layer."),
            "num_attention_heads": TEXT_HEADS,
            "max_position_embeddings": released[f"{_TEXT}embeddings.position_embeddings.weight"].shape[0],
            "hidden_act": "gelu",
            "layer_norm_eps": TEXT_EPS,
            "bos_token_id": vocabulary - 2,  # [DEC]
            "is_decoder": True,  # transformers' word for layers with cross-attention
        },
    )
    config.architectures = ["ImageRewardNetwork"]
    return config


def _depth(released: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(
        int(name.removeprefix(prefix).partition(".")[0]) for name in released if name.startswith(prefix)
    )
