"""open_clip's CLIP with a vision transformer, as HPSv2.1 is released, in transformers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import CLIPConfig

HEADS = 16
"""Attention heads of both encoders of ViT-H/14; a state dict does not tell."""

_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",  # spelled so in transformers
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_TOWERS = {"visual.transformer": "vision_model", "transformer": "text_model"}


def from_open_clip(released: Mapping[str, Tensor]) -> tuple[CLIPConfig, dict[str, Tensor]]:
    """The config and tensors of a ``CLIPModel`` from an open_clip state dict.

    Returns:
        Sizes are read from the tensors; GELU is the exact one, as in LAION's models. Tensors keep their
        precision. Names that are not known are left as they are.

    Raises:
        ValueError: If what tells the sizes is missing.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in released.items():
        for new, part in _renamed(name, tensor):
            tensors[new] = part.clone()  # parts of one tensor would share memory
    try:
        config = _config(released)
    except KeyError as error:
        raise ValueError(f"an open_clip state dict is needed; it lacks {error.args[0]}") from error
    return config, tensors


def _renamed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """New names of one released tensor with what belongs there: three for a fused attention, else one."""
    if name in _WHOLE:
        return [(_WHOLE[name], tensor)]
    if name in _PROJECTIONS:  # x @ proj there, x @ weight.T here
        return [(_PROJECTIONS[name], tensor.T.contiguous())]
    stem, _, kind = name.rpartition(".")
    if stem in _NORMS:
        return [(f"{_NORMS[stem]}.{kind}", tensor)]
    for old, tower in _TOWERS.items():
        if name.startswith(f"{old}.resblocks."):
            number, _, rest = name.removeprefix(f"{old}.resblocks.").partition(".")
            block = f"{tower}.encoder.layers.{number}"
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                parts = zip("qkv", tensor.chunk(3), strict=True)
                return [(f"{block}.self_attn.{x}_proj.{kind}", part) for x, part in parts]
            stem, _, kind = rest.rpartition(".")
            if stem in _BLOCK:
                return [(f"{block}.{_BLOCK[stem]}.{kind}", tensor)]
    return [(name, tensor)]


def _config(released: Mapping[str, Tensor]) -> CLIPConfig:
    patches = released["visual.conv1.weight"]
    grid = math.isqrt(released["visual.positional_embedding"].shape[0] - 1)
    vocabulary, text_width = released["token_embedding.weight"].shape
    projected = released["text_projection"].shape[1]
    config = CLIPConfig(
        projection_dim=projected,
        vision_config={
            "hidden_size": patches.shape[0],
            "intermediate_size": released["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(released, "visual.transformer"),
            "num_attention_heads": HEADS,
            "image_size": grid * patches.shape[-1],
            "patch_size": patches.shape[-1],
            "projection_dim": projected,
            "hidden_act": "gelu",
        },
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": released["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(released, "transformer"),
            "num_attention_heads": HEADS,
            "max_position_embeddings": released["positional_embedding"].shape[0],
            "projection_dim": projected,
            "hidden_act": "gelu",
            # open_clip pools at the largest token id, which is the end of the text.
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
    )
    config.architectures = ["CLIPModel"]
    return config


def _depth(released: Mapping[str, Tensor], tower: str) -> int:
    prefix = f"{tower}.resblocks."
    return 1 + max(
        int(name.removeprefix(prefix).partition(".")[0]) for name in released if name.startswith(prefix)
    )
