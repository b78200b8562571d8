"""New, untrained FLUX.2 [klein] pipelines of any size, for the drawn world."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from safetensors.torch import load_file
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from diffopd.weights.files import DIFFUSERS, weight_files
from diffopd.world.byte_vocabulary import CHAT_TEMPLATE, SPECIAL, byte_tables


def new_klein_pipeline(
    *,
    seed: int,
    shift: float,
    text_tokens: int,
    embedding_std: float,
    autoencoder: str | None,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoder: Mapping[str, Any],
) -> Flux2KleinPipeline:
    """Build a pipeline for the drawn world: random weights, the world's tokenizer.

    Args:
        seed: Seed of the initial weights.
        shift: The scheduler's timestep shift, the same for every picture size and number of steps.
        text_tokens: Longest prompt in tokens, both marks of the message included.
        embedding_std: Standard deviation of the text encoder's word vectors. Far above what its layers add:
            words stay recognizable in all of them, so that the encoder need not be trained.
        autoencoder: Folder of a trained autoencoder of diffusers with these shapes, whose weights are taken;
            None = random ones.
        transformer: Arguments of ``Flux2Transformer2DModel``.
        vae: Arguments of ``AutoencoderKLFlux2``.
        text_encoder: Arguments of ``Qwen3Config``. The pipeline reads layers 9, 18 and 27 of it.

    Returns:
        The pipeline in fp32 on the CPU.

    Raises:
        ValueError: If the trained autoencoder cannot be read or has other shapes.
    """
    tokenizer = new_tokenizer(text_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                eos_token_id=cast(int, tokenizer.eos_token_id),
                pad_token_id=cast(int, tokenizer.pad_token_id),
                **text_encoder,
            )
        )
        torch.nn.init.normal_(encoder.model.embed_tokens.weight, std=embedding_std)
        backbone = Flux2Transformer2DModel(**transformer)
        new_autoencoder = AutoencoderKLFlux2(**vae)
    if autoencoder is not None:
        _take_weights(new_autoencoder, Path(autoencoder))
    return Flux2KleinPipeline(
        transformer=backbone,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=new_autoencoder,
        text_encoder=encoder,
        tokenizer=cast(Any, tokenizer),
        is_distilled=False,
    )


def _take_weights(model: AutoencoderKLFlux2, folder: Path) -> None:
    """All weights but the statistics of latents, which other kinds of autoencoders keep in their config."""
    where = f"pipeline.autoencoder={folder}"
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder, DIFFUSERS, where):
        found |= load_file(file)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("bn.")}
    wrong = [name for name in own if name not in found or found[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"{where}: {wrong[0]} is missing or of another shape than pipeline.vae gives it; take an "
            "autoencoder of these settings, or pipeline.autoencoder=null"
        )
    model.load_state_dict({name: found[name] for name in own}, strict=False)


def new_tokenizer(text_tokens: int) -> Qwen2Tokenizer:
    """The drawn world's tokenizer of Qwen's kind.

    Args:
        text_tokens: Longest prompt in tokens, both marks of the message included.
    """
    vocabulary, merges = byte_tables()
    padding, start, end = SPECIAL
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=cast(Any, merges),
        pad_token=padding,
        eos_token=end,
        extra_special_tokens=[start],
        chat_template=CHAT_TEMPLATE,
        model_max_length=text_tokens,
        padding_side="right",
    )
