"""Pipelines that are trained whole: new, untrained ones of Stable Diffusion 3 of any size, or a folder's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from diffopd.files.names import INDEX
from diffopd.model import loading
from diffopd.weights.files import read_json
from diffopd.weights.finite import check_finite
from diffopd.world.vocabulary import tokenizer_tables

_TRAINED_WHOLE: Mapping[type[DiffusionPipeline], tuple[str, ...]] = {
    StableDiffusion3Pipeline: ("text_encoder_3", "tokenizer_3"),
    Flux2KleinPipeline: (),
}
"""Kinds of pipelines that a folder may hold, and the components they go without."""


def new_pipeline(
    *,
    seed: int,
    shift: float,
    text_tokens: int,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoder: Mapping[str, Any],
    text_encoder_2: Mapping[str, Any],
) -> StableDiffusion3Pipeline:
    """Build a pipeline for the drawn world: random weights, the world's tokenizer, no T5.

    Args:
        seed: Seed of the initial weights.
        shift: The scheduler's timestep shift.
        text_tokens: Longest prompt in tokens, start and end included.
        transformer: Arguments of ``SD3Transformer2DModel``.
        vae: Arguments of ``AutoencoderKL``.
        text_encoder: Arguments of the first ``CLIPTextConfig``.
        text_encoder_2: Arguments of the second.

    Returns:
        The pipeline in fp32 on the CPU.
    """
    vocabulary, merges = tokenizer_tables()
    encoders = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for arguments in (text_encoder, text_encoder_2):
            config = CLIPTextConfig(
                vocab_size=len(vocabulary),
                max_position_embeddings=text_tokens,
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["<|endoftext|>"],
                **arguments,
            )
            encoders.append(CLIPTextModelWithProjection(config))
        backbone = SD3Transformer2DModel(**transformer)
        autoencoder = AutoencoderKL(**vae)
    tokenizers = [
        CLIPTokenizer(vocab=vocabulary, merges=cast(Any, merges), model_max_length=text_tokens)
        for _ in range(2)
    ]
    return StableDiffusion3Pipeline(
        transformer=backbone,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder,
        text_encoder=encoders[0],
        tokenizer=tokenizers[0],
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizers[1],
        text_encoder_3=None,  # pyright: ignore[reportArgumentType]
        tokenizer_3=None,  # pyright: ignore[reportArgumentType]
    )


def pipeline_to_train(*, path: str) -> DiffusionPipeline:
    """Load a saved pipeline folder, Stable Diffusion 3 without T5, to continue training all of it."""
    index = Path(path) / INDEX
    if not index.is_file():
        raise ValueError(f"pipeline.path must be a pipeline folder with a {INDEX}, got {path!r}")
    name = read_json(index, f"pipeline.path={path}: {INDEX}").get("_class_name")
    kind = next((kind for kind in _TRAINED_WHOLE if kind.__name__ == name), None)
    if kind is None:
        known = " or a ".join(kind.__name__ for kind in _TRAINED_WHOLE)
        raise ValueError(
            f"pipeline.path={path} holds a {name}; only a {known} is trained whole, others get an adapter "
            "(phase=distill, nft, grpo, ...)"
        )
    pipeline, components = loading.load_pipeline(
        path,
        kind=kind,
        revision=None,
        dtypes={"default": torch.float32},
        without=_TRAINED_WHOLE[kind],
        setting="pipeline.path",
    )
    for name, component in components.items():
        if component.layout is not None:
            check_finite(getattr(pipeline, name), component.where, setting="pipeline.path")
    return pipeline
