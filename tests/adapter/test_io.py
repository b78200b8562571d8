from __future__ import annotations

import json
import logging
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from diffopd.adapter import (
    LoRA,
    adapter_parameters,
    adapter_strength,
    add_adapter,
    add_started_adapter,
    check_adapter,
    export_lora,
    load_adapter,
    save_adapter,
    trainable_adapters,
)
from diffopd.model import SD3Model, guided_velocity, read_transformer_config
from support.slow import slow_but
from support.tiny_pipelines import PROJECTIONS

LEFT = {"peft": "adapter_model.safetensors", "diffusers": "pytorch_lora_weights.safetensors"}
"""The two files that a run leaves, which differ in their keys and in where PEFT's settings are."""
FIRST = "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight"


@pytest.fixture
def adapted(model):
    """A model with an adapter that changes its output clearly; alpha is not the rank."""
    generator = torch.Generator().manual_seed(0)
    config = LoRA(rank=4, alpha=8, init="gaussian", target_modules=PROJECTIONS, start=None)
    add_adapter(model.transformer, "student", config, generator)
    with torch.no_grad():
        for parameter in adapter_parameters(model.transformer, "student").values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def saved(adapted, tmp_path):
    return save_adapter(adapted.transformer, "student", tmp_path / "adapter")


@pytest.fixture
def base_config(tiny):
    return read_transformer_config(str(tiny.folder))


def at(model):
    return (
        torch.ones(2, *model.latent_shape),
        torch.tensor([0.9, 0.4]),
        model.encode(["a red cat", "a dog"]),
    )


def add_student(model, alpha):
    """A clearly visible student of rank 4, as a run with these settings would hold it."""
    config = LoRA(rank=4, alpha=alpha, init="gaussian", target_modules=PROJECTIONS, start=None)
    add_adapter(model.transformer, "student", config, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model.transformer, "student").values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def left(model, folder):
    """What a run leaves of its student."""
    save_adapter(model.transformer, "student", folder / "peft")
    export_lora(model.transformer, "student", folder / "diffusers")
    return {kind: folder / kind / name for kind, name in LEFT.items()}


@torch.no_grad()
@pytest.mark.parametrize("alpha", [2, 4, 6, 8, 10.5])
@pytest.mark.parametrize("kind", LEFT)
def test_a_reader_of_the_factors_alone_has_the_strength_of_the_run(model, tmp_path, alpha, kind):
    """ComfyUI without ``.alpha`` keys: ``weight + B A``. Alpha 6 of rank 4 was read at 1 / 1.5."""
    add_student(model, alpha)
    tensors = load_file(left(model, tmp_path)[kind])
    assert not [key for key in tensors if key.endswith(".alpha")]
    prefix = {"peft": "base_model.model.", "diffusers": "transformer."}[kind]
    own = adapter_parameters(model.transformer, "student")
    assert {prefix + key for key in own} == set(tensors)
    for key in own:
        if key.endswith(".lora_A.weight"):
            up = key.replace(".lora_A.", ".lora_B.")
            expected = alpha / 4 * own[up].double() @ own[key].double()
            found = tensors[prefix + up].double() @ tensors[prefix + key].double()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    ("alpha", "exact"),
    slow_but([(4, True), (8, True), (1, True), (6, False), (10.5, False)], (8, True), (10.5, False)),
)
def test_every_reader_of_what_a_run_leaves_has_one_and_the_same_model(tiny, model, tmp_path, alpha, exact):
    """PEFT, diffusers and this package agree bit for bit; with the run itself if its strength is 2^n."""
    add_student(model, alpha)
    left(model, tmp_path)
    given = at(model)
    latent, sigma, conditioning = given
    stock = tiny.load_stock()
    stock.load_lora_weights(str(tmp_path / "diffusers"))
    peft = PeftModel.from_pretrained(tiny.load_stock().transformer, str(tmp_path / "peft"))
    found = [
        transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
        for transformer in (stock.transformer, peft)
    ]
    for kind in LEFT:
        fresh = SD3Model(**tiny.settings)
        load_adapter(fresh.transformer, "a", tmp_path / kind)
        found.append(fresh.velocity(*given, "a"))
    assert all(torch.equal(one, found[0]) for one in found)
    in_training = model.velocity(*given, "student")
    if exact:
        assert torch.equal(found[0], in_training)
    torch.testing.assert_close(found[0], in_training, rtol=0, atol=2e-5)
    assert (in_training - model.velocity(*given)).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize(("r", "lora_alpha", "rslora"), [(4, 6, False), (4, 8, True), (4, 4, False)])
def test_an_adapter_of_others_is_saved_again_with_its_strength(tiny, model, tmp_path, r, lora_alpha, rslora):
    """With rslora the strength is alpha / sqrt(rank): 4, which alpha / rank = 2 alone does not say."""
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        use_rslora=rslora,
        target_modules=list(PROJECTIONS),
        init_lora_weights=False,
    )
    get_peft_model(tiny.load_stock().transformer, config).save_pretrained(tmp_path / "theirs")
    load_adapter(model.transformer, "student", tmp_path / "theirs")
    left(model, tmp_path)
    load_adapter(model.transformer, "again", tmp_path / "diffusers")
    given = at(model)
    torch.testing.assert_close(
        model.velocity(*given, "again"), model.velocity(*given, "student"), rtol=0, atol=2e-5
    )
    settings = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (settings["lora_alpha"], settings["use_rslora"]) == (4, False)


@torch.no_grad()
@pytest.mark.parametrize(("lora_alpha", "rslora"), [(8, True), (8, False), (2, False)])
def test_a_start_has_the_strength_of_the_run_and_the_function_of_the_file(tiny, tmp_path, lora_alpha, rslora):
    """An rslora start has strength 4 where alpha / rank is 2: compared is the strength, not alpha."""
    config = LoraConfig(
        r=4,
        lora_alpha=lora_alpha,
        use_rslora=rslora,
        target_modules=list(PROJECTIONS),
        init_lora_weights=False,
    )
    get_peft_model(tiny.load_stock().transformer, config).save_pretrained(tmp_path / "start")
    model = SD3Model(**tiny.settings)
    load_adapter(model.transformer, "theirs", tmp_path / "start")
    own = LoRA(rank=4, alpha=8, init="gaussian", target_modules=PROJECTIONS, start=str(tmp_path / "start"))
    add_started_adapter(model.transformer, "student", own)
    assert adapter_strength(model.transformer, "student") == 2
    given = at(model)
    assert torch.equal(model.velocity(*given, "student"), model.velocity(*given, "theirs"))
    assert not torch.equal(model.velocity(*given, "student"), model.velocity(*given))
    assert trainable_adapters(model.transformer) == ()


def images(model, noise, adapter):
    """Three guided Euler steps."""
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(3)
    conditioning, latent = model.encode(["a red cat", "a dog"]), noise
    for sigma, following in pairwise(scheduler.sigmas):
        rows = sigma.expand(2)
        velocity = guided_velocity(model, latent, rows, conditioning, model.unconditional(), 3.0, adapter)
        latent = latent + (following - sigma) * velocity
    return model.decode(latent)


@torch.no_grad()
def test_stock_diffusers_draws_the_same_images_from_the_exported_lora(tiny, adapted, tmp_path):
    noise = torch.randn(2, *adapted.latent_shape, generator=torch.Generator().manual_seed(1))
    export_lora(adapted.transformer, "student", tmp_path / "export")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["pytorch_lora_weights.safetensors"]
    stock = tiny.load_stock()
    stock.load_lora_weights(str(tmp_path / "export"))
    stock_images = stock(
        prompt=["a red cat", "a dog"],
        height=16,
        width=16,
        num_inference_steps=3,
        guidance_scale=3.0,
        max_sequence_length=tiny.settings["text_length"],
        latents=noise,
        output_type="pt",
    ).images
    ours = images(adapted, noise, "student")
    # Guidance and the order of rows round differently; losing alpha would change images by more than 0.01.
    torch.testing.assert_close(ours, stock_images, rtol=0, atol=1e-5)
    assert (ours - images(adapted, noise, None)).abs().max() > 0.01


@torch.no_grad()
def test_stock_transformer_with_the_exported_lora_is_bit_equal(tiny, adapted, tmp_path):
    export_lora(adapted.transformer, "student", tmp_path)
    stock = tiny.load_stock()
    stock.load_lora_weights(str(tmp_path))
    latent, sigma = torch.ones(2, *adapted.latent_shape), torch.tensor([0.9, 0.4])
    conditioning = adapted.encode(["a red cat", "a dog"])
    theirs = stock.transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
    assert torch.equal(adapted.velocity(latent, sigma, conditioning, "student"), theirs)


def test_a_saved_adapter_comes_back_with_its_strength_in_its_factors_and_frozen(tiny, adapted, saved):
    fresh = SD3Model(**tiny.settings)
    load_adapter(fresh.transformer, "again", saved)
    before = adapter_parameters(adapted.transformer, "student")
    after = adapter_parameters(fresh.transformer, "again")
    assert before.keys() == after.keys()
    for key, value in before.items():  # strength 2
        assert torch.equal(2 * value if key.endswith("lora_B.weight") else value, after[key]), key
    assert adapter_strength(fresh.transformer, "again") == 1
    assert trainable_adapters(fresh.transformer) == ()
    given = at(adapted)
    assert torch.equal(fresh.velocity(*given, "again"), adapted.velocity(*given, "student"))


@torch.no_grad()
def test_pefts_own_class_loads_the_folder(tiny, adapted, saved):
    latent, sigma = torch.ones(2, *adapted.latent_shape), torch.tensor([0.9, 0.4])
    conditioning = adapted.encode(["a red cat", "a dog"])
    peft_model = PeftModel.from_pretrained(tiny.load_stock().transformer, str(saved))
    theirs = peft_model(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
    assert torch.equal(adapted.velocity(latent, sigma, conditioning, "student"), theirs)


def test_saving_twice_gives_the_same_bytes(adapted, saved, tmp_path):
    again = save_adapter(adapted.transformer, "student", tmp_path / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (saved / name).read_bytes() == (again / name).read_bytes()


def test_a_fitting_adapter_passes_the_check(saved, base_config):
    assert check_adapter(saved, base_config, setting="adapter.path").r == 4


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_an_adapter_that_changes_nothing_is_told_wherever_it_is_read(saved, base_config, caplog):
    with caplog.at_level(logging.WARNING):
        check_adapter(saved, base_config, setting="adapter.path")
        assert not caplog.records
        edit_weights(saved, lambda tensors: [t.zero_() for key, t in tensors.items() if "lora_B" in key])
        check_adapter(saved, base_config, setting="teacher.teachers.ocr.path")
    assert "teacher.teachers.ocr.path=" in caplog.text
    assert "changes nothing: all of its B factors are 0, as before a first update" in caplog.text


def test_another_rank_is_refused_with_both_shapes(saved, base_config):
    edit_config(saved, r=16)
    message = r"teacher\.ocr=.*lora_A\.weight has shape \(4, 16\).* rank 16 .* need \(16, 16\)"
    with pytest.raises(ValueError, match=message):
        check_adapter(saved, base_config, setting="teacher.ocr")


def test_another_width_is_refused_with_both_shapes(saved, base_config):
    with pytest.raises(ValueError, match=r"has shape \(4, 16\), .* need \(4, 24\)"):
        check_adapter(
            saved, {**base_config, "num_attention_heads": 3, "caption_projection_dim": 24}, setting="a.b"
        )


def test_missing_and_unexpected_keys_are_refused(saved, base_config):
    edit_weights(saved, lambda tensors: tensors.pop(FIRST))
    with pytest.raises(ValueError, match=r"layer .*to_q has .*'\.lora_B\.weight'.*needs the two matrices"):
        check_adapter(saved, base_config, setting="adapter.path")
    edit_weights(saved, lambda tensors: tensors.pop(FIRST.replace("lora_A", "lora_B")))
    with pytest.raises(
        ValueError, match=r"has 28 tensors, .* need 30; 2 missing .*to_q\.lora_A.*0 unexpected"
    ):
        check_adapter(saved, base_config, setting="adapter.path")
    edit_weights(saved, lambda tensors: tensors.update({"extra": torch.zeros(1)}))
    with pytest.raises(
        ValueError, match=r"adapter_model\.safetensors is not a plain LoRA: extra is not known"
    ):
        check_adapter(saved, base_config, setting="adapter.path")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is LOHA; only LORA is read"),
        ({"use_dora": True}, "use_dora.*not supported"),
        ({"rank_pattern": {"to_q": 8}}, "to_q has rank 4, and adapter_config.json states 8"),
        ({"bias": "all"}, "bias.*not supported"),
        ({"target_modules": ["elsewhere"]}, "match no layer of the model's transformer"),
    ],
)
def test_other_kinds_of_adapter_are_refused(saved, base_config, changes, message):
    edit_config(saved, **changes)
    with pytest.raises(ValueError, match=message):
        check_adapter(saved, base_config, setting="adapter.path")


def test_an_incomplete_folder_is_refused(saved, base_config):
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"adapter\.path=.*there is no adapter_model\.safetensors"):
        check_adapter(saved, base_config, setting="adapter.path")


def test_loading_checks_first(model, saved):
    edit_config(saved, r=2)
    with pytest.raises(ValueError, match=r"adapter\.path=.*has shape"):
        load_adapter(model.transformer, "again", saved)
    assert "again" not in getattr(model.transformer, "peft_config", {})
