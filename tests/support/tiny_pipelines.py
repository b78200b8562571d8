"""Random, tiny Stable Diffusion 3 pipelines saved as ordinary folders, for any test that needs one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel
from transformers import T5TokenizerFast as T5Tokenizer

PROJECTIONS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
"""The layers of SD3's blocks that released adapters lie on."""
TWO_PROJECTIONS = ("attn.to_q", "attn.to_v")
"""Enough for tests that ask for an adapter, whatever its layers."""


@dataclass(frozen=True)
class TinyPipeline:
    """A saved pipeline and the model settings that fit it."""

    folder: Path
    settings: dict[str, Any]

    def load_stock(self) -> StableDiffusion3Pipeline:
        absent = {} if self.settings["text_length"] else {"text_encoder_3": None, "tokenizer_3": None}
        pipeline = StableDiffusion3Pipeline.from_pretrained(self.folder, local_files_only=True, **absent)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def without_t5(folder: Path) -> TinyPipeline:
    """Like the embedded model: no T5, the VAE halves each side."""
    _build(seed=0, vae_blocks=2, latent_channels=4, patch_size=2, with_t5=False).save_pretrained(folder)
    return TinyPipeline(folder, _settings(folder, image_size=16, text_length=0))


def with_t5(folder: Path) -> TinyPipeline:
    """Like Stable Diffusion 3.5: T5 present, two attentions in a block, another VAE and patch size."""
    _build(seed=1, vae_blocks=3, latent_channels=8, patch_size=1, with_t5=True).save_pretrained(folder)
    return TinyPipeline(folder, _settings(folder, image_size=16, text_length=6))


def _settings(folder: Path, *, image_size: int, text_length: int) -> dict[str, Any]:
    return {
        "path": str(folder),
        "revision": None,
        "image_size": image_size,
        "text_length": text_length,
        "shift": 3.0,
        "guidance_scale": 2.0,
        "embedded_guidance": None,
        "step_distilled": False,
        "lora_modules": ["attn.to_q", "attn.to_v"],
        "dtype": "fp32",
        "text_dtype": "fp32",
        "vae_dtype": "fp32",
        "gradient_checkpointing": False,
        "attention_backend": None,
        "compile": False,
        "vae_tiling": False,
        "decode_batch_size": None,
        "offload_text_encoders": False,
        "prompt_cache": None,
    }


def _build(*, seed: int, vae_blocks: int, latent_channels: int, patch_size: int, with_t5: bool) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder, text_encoder_2 = (
            _clip_encoder(width, projection) for width, projection in ((16, 8), (8, 12))
        )
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=patch_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            dual_attention_layers=(0,) if with_t5 else (),  # as in SD3.5 Medium
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * vae_blocks,
            up_block_types=("UpDecoderBlock2D",) * vae_blocks,
            block_out_channels=(8,) * vae_blocks,
            latent_channels=latent_channels,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        t5 = T5EncoderModel(_t5_config()) if with_t5 else None
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_clip_tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=t5,
        tokenizer_3=_t5_tokenizer() if with_t5 else None,
    )


_CHARACTERS = 'abcdefghijklmnopqrstuvwxyz"'
_START, _END = "<|startoftext|>", "<|endoftext|>"


def _clip_vocabulary() -> dict[str, int]:
    pieces = [*_CHARACTERS, *(f"{c}</w>" for c in _CHARACTERS), _START, _END]
    return {piece: place for place, piece in enumerate(pieces)}


def _clip_tokenizer() -> CLIPTokenizer:
    # Paths to a vocabulary file and a merges file silently give a vocabulary of two tokens.
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=12)


def _clip_encoder(width: int, projection: int) -> CLIPTextModelWithProjection:
    vocabulary = _clip_vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=projection,
        bos_token_id=vocabulary[_START],
        eos_token_id=vocabulary[_END],
        pad_token_id=vocabulary[_END],
    )
    return CLIPTextModelWithProjection(config)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in _CHARACTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _t5_config() -> T5Config:
    return T5Config(
        vocab_size=4 + len(_CHARACTERS) + 2,
        d_model=24,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=3,
        decoder_start_token_id=0,
    )
