"""One contract for every model in conf/model, on tiny random pipelines that diffusers itself saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, QwenImagePipeline
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image

from diffopd import sample
from diffopd.adapter import adapter_parameters, check_adapter, export_lora, save_adapter, set_trainable
from diffopd.config.folder import config_folder
from diffopd.evaluate import __main__ as evaluate
from diffopd.evaluation import EvaluationResult, generate
from diffopd.model import BASE, PipelineModel, guided_velocity, read_transformer_config
from diffopd.randomness import normal_rows
from diffopd.types import Prompts
from support.family_models import TEXTS, add_noisy_adapter, composed, load, states
from support.slow import slow_but
from support.tiny_families import CLASSES, FAMILIES, IMAGE_SIZE, Family, make_family

# Our forward holds both sides of guidance, and the sums are taken in another order: rounding alone differs.
PIPELINE = 1e-5
# A row depends on its neighbours only through the rounding of batched matrix products.
ONE_BY_ONE = 1e-5


@pytest.fixture(scope="session", params=slow_but(FAMILIES, *CLASSES))
def family(request, tmp_path_factory) -> Family:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def model(family) -> PipelineModel:
    return load(family)


def prompts() -> Prompts:
    numbers = tuple(range(len(TEXTS)))
    return Prompts(tuple(TEXTS), ("task",) * len(TEXTS), ({},) * len(TEXTS), numbers, numbers)


def our_images(family, model, guidance_scale, adapter=None, size=()):
    return generate(
        model,
        prompts(),
        sampler=instantiate(composed(family, *size).sampler),
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
        height=model.size[0],
        width=model.size[1],
        num_inference_steps=4,
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
        assert (
            stock[0] - stock[1]
        ).abs().max() > 100 * PIPELINE  # and not the same for each prompt and noise
        torch.testing.assert_close(ours, stock, rtol=0, atol=PIPELINE)


def test_a_picture_higher_than_wide_equals_the_stock_pipelines(family):
    size = f"model.image_size=[{IMAGE_SIZE},{IMAGE_SIZE - 16}]"
    model = load(family, size)
    ours = our_images(family, model, 1.0, size=[size])
    assert ours.shape == (len(TEXTS), 3, IMAGE_SIZE, IMAGE_SIZE - 16)
    torch.testing.assert_close(ours, stock_images(family, model, 1.0), rtol=0, atol=PIPELINE)
    latents = model.encode_images(ours[:1])
    assert latents.shape[1:] == model.latent_shape
    with pytest.raises(
        InstantiationException,
        match=rf"model\.image_size=\[{IMAGE_SIZE}, 40\] (does not fit .*multiples of|must be a multiple)",
    ):
        load(family, f"model.image_size=[{IMAGE_SIZE},40]")


@torch.no_grad()
def test_each_row_uses_its_own_adapter(model):
    for seed, name in enumerate(("a", "b")):
        add_noisy_adapter(model, name, seed)
    latent, sigma, conditioning = states(model)
    names = ["a", "b", BASE, "a"]
    mixed = model.velocity(latent, sigma, conditioning, names)
    plain = model.velocity(latent, sigma, conditioning)
    for row, name in enumerate(names):
        place = slice(row, row + 1)
        single = model.velocity(latent[place], sigma[place], conditioning.select([row]), name)
        torch.testing.assert_close(mixed[place], single, rtol=0, atol=ONE_BY_ONE)
        distance = (mixed[row] - plain[row]).abs().max()
        assert distance <= ONE_BY_ONE if name == BASE else distance > 1e-2


def test_both_sides_of_guidance_may_have_other_lengths(family, model):
    """One forward of prompts and empty prompts equals two, whatever their numbers of tokens."""
    latent, sigma, conditioning = states(model)
    empty = model.unconditional()
    if model.step_distilled:
        with pytest.raises(ValueError, match="is guidance-distilled"):
            guided_velocity(model, latent, sigma, conditioning, empty, 2.0)
        return
    with torch.no_grad():
        guided = guided_velocity(model, latent, sigma, conditioning, empty, [1.0, 3.0, 3.0, 1.0])
        with_prompt = model.velocity(latent, sigma, conditioning)
        without = model.velocity(latent, sigma, empty.expand(4))
    expected = without + 3 * (with_prompt - without)
    if family.name == "qwen_image":  # every token of 2 x 2 cells has the norm it has with the prompt
        norms = [_token_norms(side) for side in (with_prompt, expected)]
        expected = expected * norms[0] / norms[1]
    torch.testing.assert_close(guided[1:3], expected[1:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(guided[[0, 3]], with_prompt[[0, 3]], rtol=0, atol=1e-5)


def _token_norms(velocity):
    squares = torch.nn.functional.avg_pool2d(velocity.square().sum(1, keepdim=True), 2)
    return squares.repeat_interleave(2, 2).repeat_interleave(2, 3).sqrt()


def test_the_stock_pipeline_draws_the_same_with_a_lora_we_saved(family, model, tmp_path):
    add_noisy_adapter(model, "student", 1)
    export_lora(model.transformer, "student", tmp_path / "lora")
    stock = family.stock()
    stock.load_lora_weights(str(tmp_path / "lora"))
    scale = scales(family)[-1]
    theirs, ours = stock_images(family, model, scale, stock), our_images(family, model, scale, "student")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=PIPELINE)
    assert (ours - our_images(family, model, scale)).abs().max() > 1e-3
    folder = save_adapter(model.transformer, "student", tmp_path / "adapter")
    assert check_adapter(folder, read_transformer_config(str(family.folder)), setting="adapter.path").r == 3


def test_checkpointing_changes_no_gradient(family):
    """Backward comes after another forward with another adapter."""
    gradients = []
    for checkpointing in (False, True):
        model = load(family, f"model.gradient_checkpointing={checkpointing}")
        for seed, name in enumerate(("a", "b")):
            add_noisy_adapter(model, name, seed)
        set_trainable(model.transformer, ["a", "b"])
        latent, sigma, conditioning = states(model, 3)
        loss = model.velocity(latent, sigma, conditioning, ["b", "a", "b"]).square().sum()
        with torch.no_grad():
            model.velocity(latent, sigma, conditioning, "a")
        loss.backward()
        both = [p for name in "ab" for p in adapter_parameters(model.transformer, name).values()]
        gradients.append(torch.cat([p.grad.flatten() for p in both if p.grad is not None]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_sample_and_evaluate_draw_with_every_family(family, model, tmp_path, capsys):
    """The commands know no family: an adapter on its base, images, scores."""
    add_noisy_adapter(model, "student", 1)
    adapter = save_adapter(model.transformer, "student", tmp_path / "adapter")
    given = [f"adapter_path={adapter}", "device=cpu", f"paths.run={tmp_path / 'run'}"]
    size = f"model.image_size=[{IMAGE_SIZE - 16},{IMAGE_SIZE}]"
    sample.run(composed(family, *given, "prompt=a red cat", "num_images=2", size))
    with Image.open(tmp_path / "run" / "000.png") as first:
        assert first.size == (IMAGE_SIZE, IMAGE_SIZE - 16)  # Pillow's: width, height
    (tmp_path / "prompts.txt").write_text("a red barn\na blue door on the right\n")
    benchmark = ["benchmark=drawbench", f"benchmark.path={tmp_path / 'prompts.txt'}", "num_threads=1"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        settings = [*family.overrides, *given, *benchmark, "benchmark.sampler.num_steps=2"]
        evaluate.run(compose("evaluate", overrides=settings))
    result = EvaluationResult.load(tmp_path / "run" / "results.json")
    assert result.tasks["aesthetic"].texts == ("a red barn", "a blue door on the right")
    capsys.readouterr()
