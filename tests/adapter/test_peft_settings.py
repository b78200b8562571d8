"""A saved LoRA brings its function and nothing that only trained it: no dropout, no other base."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file

from diffopd.adapter import (
    adapter_parameters,
    check_adapter,
    export_lora,
    load_adapter,
    save_adapter,
)
from diffopd.model import SD3Model, read_transformer_config

PROJECTIONS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.to_out.0")


def randomise(module):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture
def folder(tiny, tmp_path):
    """What PEFT itself saves of an adapter that trained with ``settings``."""

    def write(**settings):
        return saved_by_peft(tiny, tmp_path / "theirs", **settings)

    return write


def saved_by_peft(tiny, place, **settings):
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(PROJECTIONS), **settings})
    theirs = get_peft_model(copy.deepcopy(tiny.load_stock().transformer), config)
    randomise(theirs)
    theirs.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    return saved_by_peft(tiny, tmp_path_factory.mktemp("plain") / "theirs")


@pytest.fixture
def changed(plain, tmp_path):
    """A plain adapter of rank 4 and alpha 6 whose ``adapter_config.json`` was changed; None removes a key."""

    def write(**changes):
        path = shutil.copytree(plain, tmp_path / "theirs", dirs_exist_ok=True) / "adapter_config.json"
        settings = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ABSENT}))
        return path.parent

    return write


ABSENT = object()


@pytest.fixture
def base_config(tiny):
    return read_transformer_config(str(tiny.folder))


def at(model):
    latent = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    return latent, torch.tensor([0.9, 0.4]), model.encode(["a red cat", "a dog"])


@torch.no_grad()
@pytest.mark.parametrize("setting", ["teacher.teachers.a.path", "adapter.start"])
def test_dropout_of_the_training_is_not_applied(model, folder, setting):
    given = at(model)
    load_adapter(model.transformer, "plain", folder(), setting=setting)
    load_adapter(model.transformer, "dropped", folder(lora_dropout=0.9), setting=setting)
    plain, first, second = (model.velocity(*given, name) for name in ("plain", "dropped", "dropped"))
    assert torch.equal(first, second)
    assert torch.equal(first, plain)
    assert not torch.equal(first, model.velocity(*given))


def test_nothing_is_in_training_mode_after_loading(model, folder):
    load_adapter(model.transformer, "teacher", folder(lora_dropout=0.9))
    assert [name for name, module in model.named_modules() if module.training] == []


def test_nothing_frozen_is_in_training_mode(tiny):
    """Encoders that are kept off the device are no submodules; whole teachers come in whatever mode."""
    model = SD3Model(**{**tiny.settings, "offload_text_encoders": True})
    model.backbones.add("whole", tiny.load_stock().transformer.train())
    model.train()
    held = [model, *(getattr(model.pipeline, name) for name in model.encoders)]
    for module in filter(None, held):
        assert [name for name, part in module.named_modules() if part.training] == []


@torch.no_grad()
def test_dropout_is_not_carried_on_to_what_is_saved(tiny, model, folder, tmp_path):
    """Stock diffusers applies the dropout that a header names."""
    load_adapter(model.transformer, "a", folder(lora_dropout=0.9))
    save_adapter(model.transformer, "a", tmp_path / "peft")
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["lora_dropout"] == 0
    export_lora(model.transformer, "a", tmp_path / "lora")
    stock = tiny.load_stock()
    stock.load_lora_weights(str(tmp_path / "lora"))
    latent, sigma, conditioning = at(model)
    first, second = (
        stock.transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
        for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new"]
)
def test_an_initialisation_that_rewrites_the_base_is_an_error_that_names_it(base_config, changed, start):
    with pytest.raises(
        ValueError,
        match=rf"adapter_config\.json has init_lora_weights='{start}': .*path_initial_model_for_weight_conv",
    ):
        check_adapter(changed(init_lora_weights=start), base_config, setting="teacher.path")


@pytest.mark.filterwarnings("ignore:lora with eva initialization used with")  # PEFT's advice to its trainer
@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "mica", "eva", "pissa"])
def test_no_adapter_changes_the_base(model, folder, start):
    """All that PEFT can initialise on the spot; what it makes of the base is either none or an error."""
    before = {key: value.clone() for key, value in model.transformer.state_dict().items()}
    path = folder(init_lora_weights=start, eva_config=EvaConfig() if start == "eva" else None)
    if start == "pissa":
        with pytest.raises(ValueError, match="init_lora_weights='pissa'"):
            load_adapter(model.transformer, "a", path)
    else:
        load_adapter(model.transformer, "a", path)
        saved = load_file(path / "adapter_model.safetensors")
        for key, value in adapter_parameters(model.transformer, "a").items():
            assert torch.equal(value, saved[f"base_model.model.{key}"])
    after = {key.replace(".base_layer", ""): value for key, value in model.transformer.state_dict().items()}
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": ABSENT}, r"adapter_config\.json has no lora_alpha, so the adapter's scale"),
        ({"lora_alpha": None}, r"has lora_alpha=null, so the adapter's scale"),
        ({"lora_alpha": "32"}, r"has lora_alpha='32'; a number is needed, without quotes"),
        ({"lora_alpha": True}, r"has lora_alpha=True; a number is needed"),
        ({"lora_alpha": [8]}, r"has lora_alpha=\[8\]; a number is needed"),
        ({"lora_alpha": 1e308}, r"has lora_alpha=1e\+308 at rank 4; it must be above 0"),
        ({"lora_alpha": float("inf")}, r"has lora_alpha=inf at rank 4"),
        ({"lora_alpha": float("nan")}, r"has lora_alpha=nan at rank 4"),
        ({"lora_alpha": 0}, r"has lora_alpha=0 at rank 4; it must be above 0"),
        ({"r": True}, r"has r=True; the rank must be a whole number"),
        ({"use_rslora": "false"}, r"has use_rslora='false'; it must be true or false"),
        ({"target_modules": "("}, r"has target_modules='\(', which is not a regular expression"),
        ({"target_modules": 7}, r"has target_modules=7; a list of layer names or one regular"),
        ({"target_modules": [7]}, r"has target_modules=\[7\]; a list of layer names or one regular"),
        ({"layers_to_transform": "0"}, r"has layers_to_transform='0'; a list of the numbers of blocks is"),
        ({"layers_to_transform": [0], "layers_pattern": 5}, r"has layers_pattern=5; a name of blocks, or a"),
        (
            {"layers_pattern": "x"},
            r"path=\S+: adapter_config\.json is not a valid LoRA config for PEFT: When `layers_p",
        ),
        (
            {"layers_to_transform": [0], "target_modules": ".*to_q"},
            r"path=\S+: adapter_config\.json is not a valid LoRA config for PEFT: `layers_to_trans",
        ),
        (
            {"task_type": "X"},
            r"path=\S+: adapter_config\.json is not a valid LoRA config for PEFT: Invalid task",
        ),
        ({"use_qalora": True}, r"use_qalora=True in adapter_config\.json is not supported"),
        ({"kasa_config": {"beta": 1.0}}, r"kasa_config=.* is not supported"),
    ],
)
def test_settings_without_sense_are_one_line(base_config, changed, changes, message):
    with pytest.raises(ValueError, match=message):
        check_adapter(changed(**changes), base_config, setting="teacher.path")


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern", "use_rslora", "bias", "layers_pattern"])
def test_null_is_the_setting_left_out(base_config, changed, key):
    own = check_adapter(changed(), base_config, setting="teacher.path")
    null = check_adapter(changed(**{key: None}), base_config, setting="teacher.path")
    assert {**null.to_dict(), "target_modules": set()} == {**own.to_dict(), "target_modules": set()}


def test_a_switch_of_a_newer_peft_is_told(base_config, changed, caplog):
    check_adapter(changed(use_something_new=True, another=None), base_config, setting="teacher.path")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "use_something_new=True in adapter_config.json is a setting that the installed PEFT does not know; "
        "it has no effect"
    ]
