"""The architectures that are rehearsed, built without weights to be counted and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from omegaconf import OmegaConf
from random_teachers import composed
from rehearsal_tokenizers import CLIP_TOKENS, T5_ROWS
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

NAMES = ("sd3_5_medium", "tiny")
LORA_RANK, LORA_ALPHA = 32, 64
LORA_MODULES = tuple(
    f"attn.{name}"
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
)


@dataclass(frozen=True)
class Size:
    """Arguments of each part's config, by the part's folder in the pipeline."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    text_encoder_2: Mapping[str, Any]
    text_encoder_3: Mapping[str, Any]

    @classmethod
    def of(cls, name: str) -> Size:
        """The size called ``name``; transformer and autoencoder are those of the package's own config."""
        released: Any = composed("pipeline/sd3_5_medium_untrained", ["+seed=0"]).pipeline
        transformer: Any = OmegaConf.to_container(released.transformer)
        vae: Any = OmegaConf.to_container(released.vae)
        if name == "sd3_5_medium":
            return cls(transformer, vae, CLIP_L, CLIP_G, T5_XXL)
        return cls(
            transformer | TINY_TRANSFORMER,
            vae | TINY_VAE,
            TINY_CLIP,
            TINY_CLIP | {"projection_dim": 24},
            TINY_T5,
        )

    def without_weights(self, *, with_t5: bool) -> dict[str, Any]:
        """The parts with parameters, on the meta device: all shapes, no values.

        Args:
            with_t5: Also the third text encoder.
        """
        with torch.device("meta"):
            parts: dict[str, Any] = {
                "transformer": SD3Transformer2DModel(**self.transformer),
                "text_encoder": CLIPTextModelWithProjection(_clip(self.text_encoder)),
                "text_encoder_2": CLIPTextModelWithProjection(_clip(self.text_encoder_2)),
                "vae": AutoencoderKL(**self.vae),
            }
            if with_t5:
                parts["text_encoder_3"] = T5EncoderModel(T5Config(vocab_size=T5_ROWS, **self.text_encoder_3))
        return parts


CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
TINY_TRANSFORMER = {
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 40,
    "pos_embed_max_size": 8,
    "dual_attention_layers": [0],
}
TINY_VAE = {
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}
TINY_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
}
TINY_T5 = {"d_model": 48, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3}


def _clip(arguments: Mapping[str, Any]) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=CLIP_TOKENS,
        max_position_embeddings=77,
        bos_token_id=0,  # as the release's files say: with 2 the end token is found as the largest id
        eos_token_id=2,
        pad_token_id=1,
        **arguments,
    )


def shapes_on_disk(part: Any) -> dict[str, tuple[int, ...]]:
    """What a part's files hold: parameters and lasting buffers, a shared tensor once."""
    tied = getattr(part, "_tied_weights_keys", None) or {}
    return {key: tuple(value.shape) for key, value in part.state_dict().items() if key not in tied}


def lora_shapes(transformer: Any) -> dict[str, tuple[int, ...]]:
    """Factors of a LoRA on the attention projections by their keys in a PEFT folder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in transformer.named_modules():
        if any(name.endswith(f".{target}") for target in LORA_MODULES):
            key = f"base_model.model.{name}"
            shapes[f"{key}.lora_A.weight"] = (LORA_RANK, module.in_features)
            shapes[f"{key}.lora_B.weight"] = (module.out_features, LORA_RANK)
    return shapes
