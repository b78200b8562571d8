"""A tiny random pipeline of every family in conf/model, saved as a folder, and the settings it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5EncoderModel,
)

from support.tiny_pipelines import _clip_encoder, _clip_tokenizer, _clip_vocabulary, _t5_config, _t5_tokenizer

IMAGE_SIZE = 64


@dataclass(frozen=True)
class Family:
    """A choice of conf/model and a pipeline that fits it.

    Attributes:
        name: Of the family.
        folder: The saved pipeline.
        settings: Overrides that a tiny pipeline needs beside its path and size.
    """

    name: str
    folder: Path
    settings: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """What a tiny pipeline changes: where it is, its sizes, and a precision to compare results in."""
        return [
            f"model.path={self.folder}",
            f"model.image_size={IMAGE_SIZE}",
            *self.settings,
            *(f"model.{name}=fp32" for name in ("dtype", "text_dtype", "vae_dtype")),
        ]

    def stock(self) -> Any:
        """The library's own pipeline."""
        pipeline = DiffusionPipeline.from_pretrained(self.folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def make_family(name: str, folder: Path) -> Family:
    """Build and save the pipeline of one family."""
    build, settings = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pipeline = build()
        for component in (pipeline.transformer, pipeline.vae):
            _wake(component)
    pipeline.save_pretrained(folder)
    return Family(name, folder, settings)


@torch.no_grad()
def _wake(module: torch.nn.Module) -> None:
    """Give weights that start at 0 small values: without, whole branches would do nothing."""
    for parameter in module.parameters():
        if not parameter.abs().max() > 0:
            parameter.normal_(std=0.1)


def _stable_diffusion_3(dual_attention_layers: Sequence[int]) -> StableDiffusion3Pipeline:
    text_encoder, text_encoder_2 = (
        _clip_encoder(width, projection) for width, projection in ((16, 8), (8, 12))
    )
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            dual_attention_layers=tuple(dual_attention_layers),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(4),
        text_encoder=text_encoder,
        tokenizer=_clip_tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=T5EncoderModel(_t5_config()),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux1_dev() -> FluxPipeline:
    vocabulary = _clip_vocabulary()
    clip = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=12,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=_resolution_scheduler(),
        vae=_autoencoder(4),
        text_encoder=CLIPTextModel(clip),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=T5EncoderModel(_t5_config()),
        tokenizer_2=_t5_tokenizer(),
    )


def _flux2_klein(is_distilled: bool) -> Flux2KleinPipeline:
    autoencoder = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=IMAGE_SIZE,
    )
    # Trained statistics differ from the neutral ones a new autoencoder has.
    autoencoder.bn.running_mean.copy_(torch.randn(16))
    autoencoder.bn.running_var.copy_(torch.rand(16) + 0.5)
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=3 * 8,
            timestep_guidance_channels=8,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=autoencoder,
        text_encoder=Qwen3ForCausalLM(_qwen3(num_layers=27)),  # prompts are read from layers 9, 18 and 27
        tokenizer=_qwen_tokenizer(),
        is_distilled=is_distilled,
    )


def _z_image(shift: float, tokenizer: Qwen2TokenizerFast | None = None) -> ZImagePipeline:
    tokenizer = tokenizer or _qwen_tokenizer()
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=16,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=8,
            axes_dims=[4, 2, 2],
            axes_lens=[128, 16, 16],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=_autoencoder(4),
        text_encoder=Qwen3Model(_qwen3(num_layers=2, vocab_size=len(tokenizer))),
        tokenizer=tokenizer,
    )


def _qwen_image() -> QwenImagePipeline:
    tokenizer = _qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]},
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8}
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=_resolution_scheduler(max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02),
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.7, 2.0, 1.0],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=_qwen_tokenizer(),
    )


CLASSES = ("sd3_5_medium", "flux1_dev", "flux2_klein", "z_image", "qwen_image")
"""One family of each class of models; the others differ from one of these in sizes and settings."""
FAMILIES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "sd3_5_medium": (lambda: _stable_diffusion_3((0,)), ("model=sd3_5_medium", "model.text_length=6")),
    "sd3_5_large": (lambda: _stable_diffusion_3(()), ("model=sd3_5_large", "model.text_length=6")),
    "flux1_dev": (_flux1_dev, ("model=flux1_dev", "model.text_length=6")),
    "flux2_klein": (lambda: _flux2_klein(True), ("model=flux2_klein", "model.text_length=48")),
    "flux2_klein_base": (
        lambda: _flux2_klein(False),
        (
            "model=flux2_klein",
            "model.text_length=48",
            "model.step_distilled=false",
            "model.guidance_scale=4",
        ),
    ),
    "z_image": (lambda: _z_image(6.0), ("model=z_image", "model.text_length=64")),
    "z_image_turbo": (lambda: _z_image(3.0), ("model=z_image_turbo", "model.text_length=64")),
    "qwen_image": (_qwen_image, ("model=qwen_image", "model.text_length=64")),
}
"""name -> how to build its pipeline, and what its config is told beside path, size and precision."""


def _resolution_scheduler(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **settings)


def _autoencoder(latent_channels: int) -> AutoencoderKL:
    """Eight pixels a cell, as in all these families."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=IMAGE_SIZE,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _qwen3(num_layers: int, vocab_size: int | None = None) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocab_size or len(_qwen_tokenizer()),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        initializer_range=0.5,  # with the usual one, prompts would hardly change a picture
    )


@cache
def _qwen_tokenizer(*more: str) -> Qwen2TokenizerFast:
    """Byte by byte, but for most of Qwen-Image's instruction, which comes to 34 tokens as it should.

    Args:
        more: Further special tokens.
    """
    instruction = (
        "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", instruction[:-17], *more]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: n for n, piece in enumerate([*alphabet, *special])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="right",
        chat_template="{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
    )
