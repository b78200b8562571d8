from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from diffopd.model import SD3Model, guided_velocity, read_transformer_config
from diffopd.types import VelocityModel

PROMPTS = ["a red cat", 'a sign that says "dog"', "a red cat"]
# One forward holds the conditional and unconditional rows in another order than the stock pipeline, and
# guidance is summed in another order: rounding alone differs.
ROUNDING = 2e-5


def stock_images(tiny, noise, *, guidance_scale, num_steps=4):
    return tiny.load_stock()(
        prompt=PROMPTS,
        height=tiny.settings["image_size"],
        width=tiny.settings["image_size"],
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        max_sequence_length=tiny.settings["text_length"],
        latents=noise,
        output_type="pt",
    ).images


def our_images(model, noise, *, guidance_scale, num_steps=4):
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(num_steps)
    sigmas = scheduler.sigmas
    conditioning, latent = model.encode(PROMPTS), noise
    for sigma, following in pairwise(sigmas):
        rows = sigma.expand(len(noise))
        velocity = guided_velocity(model, latent, rows, conditioning, model.unconditional(), guidance_scale)
        latent = latent + (following - sigma) * velocity
    return model.decode(latent)


@pytest.fixture
def noise(model):
    return torch.randn(len(PROMPTS), *model.latent_shape, generator=torch.Generator().manual_seed(3))


def test_meets_the_protocol(model):
    assert isinstance(model, VelocityModel)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
@torch.no_grad()
def test_images_equal_the_stock_pipeline(tiny, model, noise, guidance_scale):
    stock = stock_images(tiny, noise, guidance_scale=guidance_scale)
    ours = our_images(model, noise, guidance_scale=guidance_scale)
    assert ours.shape == stock.shape == (3, 3, 16, 16)
    assert stock.std() > 0.01  # the tiny model draws something
    torch.testing.assert_close(ours, stock, rtol=0, atol=ROUNDING)


def test_encodes_as_the_stock_pipeline_does(tiny, model):
    stock = tiny.load_stock()
    with torch.no_grad():
        embeds, empty, pooled, empty_pooled = stock.encode_prompt(
            PROMPTS, None, None, max_sequence_length=model.text_length
        )
    ours, unconditional = model.encode(PROMPTS), model.unconditional()
    torch.testing.assert_close(ours.embeds, embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(unconditional.embeds, empty[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(unconditional.pooled, empty_pooled[:1], rtol=0, atol=1e-6)
    assert ours.embeds.shape[1] == 12 + model.text_length
    assert not torch.equal(ours.embeds[0], ours.embeds[1])
    assert not ours.embeds.requires_grad


def test_encodings_do_not_depend_on_the_training_mode(model):
    before = model.encode(PROMPTS)
    model.train()
    torch.testing.assert_close(model.encode(PROMPTS).embeds, before.embeds, rtol=0, atol=0)


def test_the_text_encoders_get_gradients_only_on_request(model):
    model.text_encoder.requires_grad_(True)
    assert not model.encode(PROMPTS).embeds.requires_grad
    model.encode(PROMPTS, grad=True).embeds.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.text_encoder.parameters())


def test_everything_is_frozen(model):
    assert sum(1 for _ in model.parameters()) > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_decode_undoes_encode_images_scaling(tiny, model):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = model.encode_images(images)
        raw = model.vae.encode(images * 2 - 1).latent_dist.mode()
        decoded = model.vae.decode(raw).sample
    assert tuple(latents.shape[1:]) == model.latent_shape
    torch.testing.assert_close(latents, (raw - 0.0609) * 1.5305)
    torch.testing.assert_close(model.decode(latents), (decoded / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_encode_images_draws_from_the_given_generator(model):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = (model.encode_images(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, model.encode_images(images))


def test_precisions_are_per_component_and_velocities_are_fp32(tiny, noise):
    model = SD3Model(**{**tiny.settings, "dtype": "bf16", "text_dtype": "fp32", "vae_dtype": "fp32"})
    assert model.transformer.dtype == torch.bfloat16
    assert model.vae.dtype == model.text_encoder.dtype == torch.float32
    exact = SD3Model(**tiny.settings)
    sigma = torch.full((3,), 0.6)
    with torch.no_grad():
        rounded = model.velocity(noise, sigma, model.encode(PROMPTS))
        reference = exact.velocity(noise, sigma, exact.encode(PROMPTS))
    assert rounded.dtype == torch.float32
    # bf16 keeps 8 bits: a few percent of the size of the velocities after two blocks.
    assert 0 < (rounded - reference).norm() < 0.05 * reference.norm()


def test_t5_is_loaded_only_if_its_slot_has_a_length(tiny):
    model = SD3Model(**{**tiny.settings, "text_length": 0})
    assert model.text_encoder_3 is None
    assert model.encode(["a cat"]).embeds.shape[1] == 12


def test_identity_follows_weights_and_not_the_folder(tiny, model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder, copy)
    (copy / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"a variant")
    assert SD3Model(**{**tiny.settings, "path": str(copy)}).identity == model.identity
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert SD3Model(**{**tiny.settings, "path": str(copy)}).identity != model.identity


def test_reads_the_backbone_config_without_weights(tiny):
    assert read_transformer_config(str(tiny.folder))["_class_name"] == "SD3Transformer2DModel"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("image_size", 15, r"model\.image_size=15 does not fit .*multiples of 4"),
        ("image_size", 64, r"model\.image_size=64 does not fit .*up to 32"),
        ("shift", 1.0, r"model\.shift=1.0 but the scheduler .* has shift 3.0"),
        ("text_length", 513, r"model\.text_length=513 is out of range"),
        ("dtype", "fp8", r"model\.dtype=fp8 must be one of fp32, bf16, fp16"),
        ("path", "./nowhere", r"model\.path=\./nowhere: there is no such folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny, setting, value, message):
    with pytest.raises(ValueError, match=message):
        SD3Model(**{**tiny.settings, setting: value})


def test_another_kind_of_pipeline_is_refused(tiny, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match="holds a FluxPipeline; a StableDiffusion3Pipeline is needed"):
        SD3Model(**{**tiny.settings, "path": str(tmp_path)})


def test_a_folder_without_an_index_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"holds no model_index\.json"):
        SD3Model(**{**tiny.settings, "path": str(tmp_path)})


def lacking_t5(tiny, folder):
    """Settings of a copy that was saved without T5."""
    shutil.copytree(tiny.folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps({**index, **absent}))
    return {**tiny.settings, "path": str(folder), "text_length": 6}


def test_a_pipeline_without_t5_says_so_once_and_encodes_as_the_stock_one(tiny, tmp_path, caplog):
    settings = lacking_t5(tiny, tmp_path / "copy")
    model = SD3Model(**settings)
    assert len([line for line in caplog.messages if "has no T5" in line and "6 tokens" in line]) == 1
    stock = StableDiffusion3Pipeline.from_pretrained(
        tmp_path / "copy", local_files_only=True, text_encoder_3=None, tokenizer_3=None
    )
    with torch.no_grad():
        embeds, _, pooled, _ = stock.encode_prompt(PROMPTS, None, None, max_sequence_length=6)
    ours = model.encode(PROMPTS)
    assert ours.embeds.shape == embeds.shape
    torch.testing.assert_close(ours.embeds, embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-6)
    caplog.clear()
    SD3Model(**{**settings, "text_length": 0})
    assert "T5" not in caplog.text


def test_the_zeros_of_an_absent_t5_are_not_kept_in_a_cache(tiny, tmp_path):
    settings = lacking_t5(tiny, tmp_path / "copy")
    plain = SD3Model(**settings)
    for _ in range(2):  # written, then read
        cached = SD3Model(**{**settings, "prompt_cache": str(tmp_path / "cache")})
        for text in PROMPTS:
            assert torch.equal(cached.encode([text]).embeds, plain.encode([text]).embeds)
    numbers = []
    for file in cached.prompt_cache.folder.glob("*.safetensors"):
        numbers += [t.numel() for name, t in load_file(file).items() if name.endswith("embeds")]
    assert numbers == [12 * plain.encode([""]).embeds.shape[2]] * len(set(PROMPTS))
