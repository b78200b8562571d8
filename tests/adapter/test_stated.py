"""A file whose strength or numbers nobody can know is an error; an assumed strength is said."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from diffopd.adapter import adapter_strength, check_adapter, load_adapter
from diffopd.model import read_transformer_config

FIRST = "transformer_blocks.0.attn.to_q"


@pytest.fixture
def base_config(tiny):
    return read_transformer_config(str(tiny.folder))


@pytest.fixture
def peft_folder(tiny, tmp_path):
    """What PEFT writes, of strength 1.5, with small random factors."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["attn.to_q", "attn.to_v"], init_lora_weights=False)
    get_peft_model(tiny.load_stock().transformer, config).save_pretrained(tmp_path / "peft")
    return tmp_path / "peft"


@pytest.fixture
def diffusers_file(peft_folder, tmp_path):
    """The same factors in the keys of diffusers, each changed by the test."""

    def write(change=lambda tensors: None):
        saved = load_file(peft_folder / "adapter_model.safetensors")
        tensors = {key.replace("base_model.model.", "transformer."): value for key, value in saved.items()}
        change(tensors)
        save_file(tensors, tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"

    return write


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "ocr.safetensors"])
def test_weights_of_peft_taken_from_their_config_are_an_error(peft_folder, base_config, tmp_path, name):
    copied = tmp_path / "copied" / name
    copied.parent.mkdir()
    copied.write_bytes((peft_folder / "adapter_model.safetensors").read_bytes())
    with pytest.raises(
        ValueError,
        match=rf"teacher\.path=.*holds weights in PEFT's keys \(first: base_model\.model\.{FIRST}\) without "
        r"their adapter_config\.json",
    ):
        check_adapter(copied, base_config, setting="teacher.path")


def test_a_renamed_copy_beside_the_config_is_an_error_too(peft_folder, base_config):
    """The config may be that of another file in the folder."""
    renamed = (peft_folder / "adapter_model.safetensors").rename(peft_folder / "ocr.safetensors")
    with pytest.raises(ValueError, match=r"so their scale \(lora_alpha / r\) is unknown; give PEFT's whole"):
        check_adapter(renamed, base_config, setting="teacher.path")


@pytest.mark.parametrize("path", ["someone/ocr", "someone/ocr/adapter_model.safetensors"])
def test_a_folder_on_the_hub_and_its_file_have_one_strength(peft_folder, model, monkeypatch, tmp_path, path):
    """The config beside the file is fetched with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repository, name, revision=None: str(peft_folder / name)
    )
    load_adapter(model.transformer, "a", path, setting="teacher.path")
    assert adapter_strength(model.transformer, "a") == 1.5


def test_keys_of_peft_with_an_alpha_for_each_layer_are_read(peft_folder, model, tmp_path):
    tensors = load_file(peft_folder / "adapter_model.safetensors")
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        tensors[key.replace(".lora_A.weight", ".alpha")] = torch.tensor(6)
    save_file(tensors, tmp_path / "x.safetensors")
    load_adapter(model.transformer, "a", tmp_path / "x.safetensors")
    assert adapter_strength(model.transformer, "a") == 1.5
    del tensors[f"base_model.model.{FIRST}.alpha"]
    save_file(tensors, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=rf"PEFT's keys \(first: base_model\.model\.{FIRST}\)"):
        load_adapter(model.transformer, "b", tmp_path / "y.safetensors")


def notes(caplog):
    return [record.getMessage() for record in caplog.records if "states no alpha" in record.getMessage()]


def test_an_assumed_strength_is_said_in_one_line(diffusers_file, model, base_config, caplog):
    file = diffusers_file()
    check_adapter(file, base_config, setting="teacher.path")
    load_adapter(model.transformer, "a", file, setting="teacher.path")
    assert adapter_strength(model.transformer, "a") == 1
    assert len(notes(caplog)) == 1
    assert f"note: teacher.path={file} states no alpha for " in notes(caplog)[0]
    assert notes(caplog)[0].endswith(
        f"layers (first: transformer.{FIRST}); their scale is taken as 1, as in diffusers and ComfyUI"
    )


def test_a_stated_strength_is_not_talked_about(diffusers_file, peft_folder, base_config, caplog):
    def state(tensors):
        for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
            tensors[key.replace(".lora_A.weight", ".alpha")] = torch.tensor(4.0)

    check_adapter(diffusers_file(state), base_config, setting="teacher.path")
    check_adapter(peft_folder, base_config, setting="teacher.path")
    assert notes(caplog) == []


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.int8, "I8"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
    ],
)
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_numbers_that_are_no_real_ones(diffusers_file, base_config, dtype, named, part):
    key = f"transformer.{FIRST}.{part}.weight"

    def change(tensors):
        tensors[key] = tensors[key].to(dtype)

    with pytest.raises(
        ValueError, match=rf"x\.safetensors: {key} holds numbers of type {named}; .* must be F32"
    ):
        check_adapter(diffusers_file(change), base_config, setting="teacher.path")


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e300])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_values_that_are_not_finite_in_fp32(diffusers_file, peft_folder, base_config, value, kind):
    def change(tensors):
        key = next(key for key in tensors if key.endswith(f"{FIRST}.lora_B.weight"))
        tensors[key] = torch.full_like(tensors[key], value, dtype=torch.float64)

    path = diffusers_file(change)
    if kind == "folder":
        tensors = load_file(peft_folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, peft_folder / "adapter_model.safetensors")
        path = peft_folder
    with pytest.raises(ValueError, match=rf"{FIRST}\.lora_B\.weight holds values that are nan or infinite"):
        check_adapter(path, base_config, setting="teacher.path")


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (torch.tensor(torch.nan), "has alpha nan"),
        (torch.tensor(torch.inf), "has alpha inf"),
        (torch.tensor(1e308, dtype=torch.float64), "alpha"),
        (torch.tensor(1e30), r"scale 2\.5e\+29"),
        (torch.tensor(-4.0), "has alpha -4"),
        (torch.tensor(True), r"alpha holds numbers of type BOOL"),
        (torch.ones(2), r"alpha has shape \(2,\); an alpha is one number"),
        (torch.ones(0), r"alpha has shape \(0,\); an alpha is one number"),
    ],
)
def test_alphas_without_sense(diffusers_file, base_config, alpha, message):
    def change(tensors):
        for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
            tensors[key.replace(".lora_A.weight", ".alpha")] = alpha.clone()

    with pytest.raises(ValueError, match=message):
        check_adapter(diffusers_file(change), base_config, setting="teacher.path")


def test_a_header_without_alpha_is_an_error(diffusers_file, base_config, tmp_path):
    tensors = load_file(diffusers_file())
    header = {"transformer.r": 4, "transformer.target_modules": ["attn.to_q", "attn.to_v"]}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    with pytest.raises(ValueError, match=r"the file's header has no lora_alpha, so the adapter's scale"):
        check_adapter(tmp_path / "x.safetensors", base_config, setting="teacher.path")


def test_a_header_of_a_text_encoder_alone_says_nothing_of_the_transformer(
    diffusers_file, base_config, tmp_path
):
    header = json.dumps({"text_encoder.r": 4, "text_encoder.lora_alpha": 6})
    save_file(load_file(diffusers_file()), tmp_path / "x.safetensors", {"lora_adapter_metadata": header})
    with pytest.raises(ValueError, match=r"has no settings of the transformer .*first key is text_encoder\."):
        check_adapter(tmp_path / "x.safetensors", base_config, setting="teacher.path")
