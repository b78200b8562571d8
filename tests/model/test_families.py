"""One contract for every model in conf/model, on tiny random pipelines that diffusers itself saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, QwenImagePipeline
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_families import FAMILIES, IMAGE_SIZE, Family, make_family

from diffopd.adapter import (
    LoRA,
    adapter_parameters,
    add_adapter,
    check_adapter,
    export_lora,
    save_adapter,
    set_trainable,
)
from diffopd.configs import config_folder
from diffopd.evaluation import generate
from diffopd.model import BASE, PipelineModel, guided_velocity, read_transformer_config
from diffopd.randomness import normal_rows
from diffopd.types import Prompts

# Prompts of different lengths: some families give each its own number of tokens.
TEXTS = ["a red cat", 'a sign that says "dog"', "a"]
NUM_STEPS = 4
# Our forward holds both sides of guidance, and the sums are taken in another order: rounding alone differs.
PIPELINE = 1e-4
# A row depends on its neighbours only through the rounding of batched matrix products.
ONE_BY_ONE = 1e-5


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, tmp_path_factory) -> Family:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


def composed(family: Family, *overrides: str):
    """What ``python -m diffopd.sample`` would be told; only the pipeline and its sizes are changed."""
    settings = ["prompt=x", "sampler=flow", f"sampler.num_steps={NUM_STEPS}", "sampler.noise_level=0"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("sample", overrides=[*family.overrides, *settings, "paths.run=.", *overrides])


def load(family: Family, *overrides: str) -> PipelineModel:
    return instantiate(composed(family, *overrides).model)


@pytest.fixture
def model(family) -> PipelineModel:
    return load(family)


def prompts() -> Prompts:
    numbers = tuple(range(len(TEXTS)))
    return Prompts(tuple(TEXTS), ("task",) * len(TEXTS), ({},) * len(TEXTS), numbers, numbers)


def our_images(family, model, guidance_scale, adapter=None):
    return generate(
        model,
        prompts(),
        sampler=instantiate(composed(family).sampler),
        guidance_scale=guidance_scale,
        adapters=adapter,
        seed=0,
        batch_size=len(TEXTS),
    )


def stock_images(family, model, guidance_scale, stock=None):
    """The library's images from the same noise, in its own words for guidance."""
    noise = normal_rows(0, "evaluation/noise", 0, prompts().indices, model.latent_shape)
    batch, channels, height, width = noise.shape
    call: dict[str, Any] = {"latents": noise, "max_sequence_length": model.text_length}
    if family.name.startswith("z_image"):
        call["guidance_scale"] = guidance_scale - 1
    elif family.name in ("flux1_dev", "qwen_image"):
        pack = (FluxPipeline if family.name == "flux1_dev" else QwenImagePipeline)._pack_latents
        call["latents"] = pack(noise, batch, channels, height, width)
        call["true_cfg_scale"] = guidance_scale
        if guidance_scale != 1:
            call["negative_prompt"] = [model.empty_prompt] * len(TEXTS)
        if family.name == "flux1_dev":
            call["guidance_scale"] = 3.5
    else:
        call["guidance_scale"] = guidance_scale
    return (stock or family.stock())(
        prompt=list(TEXTS),
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        num_inference_steps=NUM_STEPS,
        output_type="pt",
        **call,
    ).images


def scales(family: Family) -> tuple[float, ...]:
    return (1.0,) if family.name in ("flux2_klein", "z_image_turbo") else (1.0, 3.5)


def test_images_equal_the_stock_pipeline(family, model):
    for guidance_scale in scales(family):
        stock = stock_images(family, model, guidance_scale)
        ours = our_images(family, model, guidance_scale)
        assert ours.shape == stock.shape == (len(TEXTS), 3, IMAGE_SIZE, IMAGE_SIZE)
        assert stock.std() > 0.01  # the tiny model draws something
        assert (stock[0] - stock[1]).abs().max() > 100 * PIPELINE  # and not the same for each prompt and noise
        torch.testing.assert_close(ours, stock, rtol=0, atol=PIPELINE)
