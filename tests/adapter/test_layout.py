"""LoRA files that change the velocity as they should, none written by our saving code; files that are broken.

The names that other programs use are in ``test_layout_programs.py``, other keys in ``test_layout_keys.py``.
"""

from __future__ import annotations

import json
import pickle
import re

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from diffopd.adapter import (
    LoRA,
    check_adapter,
    check_start,
    load_adapter,
    weightless,
)
from diffopd.model import read_transformer_config
from support.tiny_pipelines import PROJECTIONS

RELEASED = {  # an adapter_config.json as the releases for SD3.5 Medium have it, from an older PEFT
    "alpha_pattern": {},
    "auto_mapping": {"base_model_class": "SD3Transformer2DModel", "parent_library": "diffusers.models"},
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": "gaussian",
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 64,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 32,
    "rank_pattern": {},
    "revision": None,
    "target_modules": list(PROJECTIONS),
    "task_type": None,
    "use_dora": False,
    "use_rslora": False,
    "a_setting_of_some_other_version": None,
}


def layers_of(transformer):
    return [name for name, _ in transformer.named_modules() if name.endswith(PROJECTIONS)]


def factors_of(transformer, rank=lambda number: 4):
    """Random factors for each of the eight projections of each block, by the layer's name."""
    generator, factors = torch.Generator().manual_seed(5), {}
    for number, name in enumerate(layers_of(transformer)):
        outputs, inputs = transformer.get_submodule(name).weight.shape
        down = torch.randn(rank(number), inputs, generator=generator) * 0.3
        factors[name] = (down, torch.randn(outputs, rank(number), generator=generator) * 0.3)
    return factors


def at(model):
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(2, *model.latent_shape, generator=generator)
    return latent, torch.tensor([0.9, 0.4]), model.encode(["a red cat", "a dog"])


@torch.no_grad()
def answer(transformer, latent, sigma, conditioning):
    return transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample


def assert_adds(model, tiny, path, factors, strength):
    """The file moves the velocity as ``weight + strength * B A`` in the stock transformer does."""
    load_adapter(model.transformer, "teacher", path, setting="teacher.path")
    stock, given = tiny.load_stock().transformer, at(model)
    with torch.no_grad():
        base = answer(stock, *given)
        for number, (name, (down, up)) in enumerate(factors.items()):
            scale = strength(number) if callable(strength) else strength
            stock.get_submodule(name).weight += (scale * up.double() @ down.double()).float()
        ours = model.velocity(*given, "teacher")
    assert_same(ours, answer(stock, *given), base)


def assert_same(ours, expected, base):
    # Adding to the weight and adding to the output round differently in fp32; the smallest effect of an error
    # in alpha, rank or a layer's place is of the size of the change itself.
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    assert (expected - base).abs().max() > 0.02


def test_a_released_peft_folder(model, tiny, tmp_path):
    """``base_model.model.`` keys, rank 32, alpha 64, the eight projections: strength 2."""
    factors = factors_of(model.transformer, rank=lambda number: 32)
    tensors = {}
    for name, (down, up) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(RELEASED))
    assert_adds(model, tiny, tmp_path, factors, 2.0)


def randomise(module):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("ending", ["", "adapter_model.safetensors"])
def test_a_folder_that_peft_saved(model, tiny, tmp_path, rslora, ending):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=list(PROJECTIONS), use_rslora=rslora)
    theirs = get_peft_model(tiny.load_stock().transformer, config)
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    load_adapter(model.transformer, "teacher", tmp_path / ending)
    given = at(model)
    with torch.no_grad():
        base, expected = model.velocity(*given), answer(theirs, *given)
        assert_same(model.velocity(*given, "teacher"), expected, base)


@pytest.mark.parametrize("with_alpha", [True, False])
def test_a_file_that_diffusers_saved(model, tiny, tmp_path, with_alpha):
    """With alpha in the header; without it diffusers takes the rank for alpha, and so do we."""
    pipeline = tiny.load_stock()
    transformer = pipeline.transformer
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=12, target_modules=list(PROJECTIONS)), "x")
    randomise(transformer)
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="x"),
        transformer_lora_adapter_metadata=transformer.peft_config["x"].to_dict() if with_alpha else None,
    )
    stock = tiny.load_stock()
    stock.load_lora_weights(str(tmp_path), adapter_name="y")
    load_adapter(model.transformer, "teacher", tmp_path)
    given = at(model)
    with torch.no_grad():
        base, expected = model.velocity(*given), answer(stock.transformer, *given)
        assert_same(model.velocity(*given, "teacher"), expected, base)
    assert model.transformer.peft_config["teacher"].lora_alpha == (12 if with_alpha else 4)


@pytest.mark.parametrize("ends", [("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")])
def test_a_comfyui_file_with_an_alpha_and_a_rank_of_its_own_in_each_layer(model, tiny, tmp_path, ends):
    factors = factors_of(model.transformer, rank=lambda number: (4, 2, 3)[number % 3])
    tensors = {}
    for number, (name, (down, up)) in enumerate(factors.items()):
        tensors[f"transformer.{name}.{ends[0]}"], tensors[f"transformer.{name}.{ends[1]}"] = down, up
        if number:  # the first has none: its strength is 1
            tensors[f"transformer.{name}.alpha"] = torch.tensor(float(down.shape[0] * (1 + number % 2)))
    file = tmp_path / "some name.safetensors"
    save_file(tensors, file)
    assert_adds(model, tiny, file, factors, lambda number: 1 + number % 2 if number else 1)


def test_a_onetrainer_file(model, tiny, tmp_path):
    factors = factors_of(model.transformer)
    tensors = {}
    for name, (down, up) in factors.items():
        stem = f"lora_transformer_{name.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(8.0)
    save_file(tensors, tmp_path / "x.safetensors")
    assert_adds(model, tiny, tmp_path, factors, 2.0)  # a folder with one file of any name


# What is refused.


@pytest.fixture
def base_config(tiny):
    return read_transformer_config(str(tiny.folder))


@pytest.fixture
def comfy(base_config, tmp_path):
    """Write a file of ``transformer.<layer>`` keys, changed by the test."""

    def write(change=lambda tensors: None, name="x.safetensors"):
        tensors = {}
        for layer, (down, up) in factors_of(weightless(base_config)).items():
            tensors[f"transformer.{layer}.lora_A.weight"] = down
            tensors[f"transformer.{layer}.lora_B.weight"] = up
        change(tensors)
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return write


def refusal(path, base_config):
    with pytest.raises(ValueError, match="teacher\\.path=") as refused:
        check_adapter(path, base_config, setting="teacher.path")
    assert str(path) in str(refused.value)
    return str(refused.value)


class Harmful:
    """A pickle that would leave a trace if it were loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("name", ["adapter_model.bin", "x.pt", "x.ckpt"])
def test_a_pickle_is_refused_by_its_ending_and_never_loaded(base_config, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(tmp_path / "trace")))
    assert f"{name} is a pickle, which can run code" in refusal(tmp_path / name, base_config)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("with_torch", [True, False])
def test_a_pickle_under_another_name_is_refused_and_never_loaded(base_config, tmp_path, with_torch):
    file = tmp_path / "x.safetensors"
    content = {"key": Harmful(tmp_path / "trace")}
    torch.save(content, file) if with_torch else file.write_bytes(pickle.dumps(content))
    assert "x.safetensors is a pickle under another name" in refusal(file, base_config)
    assert not (tmp_path / "trace").exists()


def test_a_folder_that_holds_a_pickle_alone(base_config, tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"x")
    found = refusal(tmp_path, base_config)
    assert "holds no adapter (pytorch_lora_weights.bin is a pickle, and pickles are not read); give" in found
    (tmp_path / "adapter_config.json").write_text(json.dumps(RELEASED))
    assert "there is no adapter_model.safetensors (pytorch_lora_weights.bin is a pickle" in refusal(
        tmp_path, base_config
    )


@pytest.mark.parametrize("kept", [0.6, 0.01])
def test_a_file_that_was_cut_short(base_config, comfy, kept):
    file = comfy()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    assert re.search(
        r"x.safetensors \(\d+ bytes\) is not a whole safetensors file", refusal(file, base_config)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.safetensors is empty (0 bytes); fetch"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is not a safetensors file (it begins with b'version ",
        ),
        (b"<html>", "is not a safetensors file"),
    ],
)
def test_something_else_under_that_name(base_config, tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert message in refusal(tmp_path / "x.safetensors", base_config)


def change_first(tensors, part, value):
    key = next(key for key in tensors if key.endswith(f"to_q.{part}.weight"))
    tensors[key] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: change_first(t, "lora_A", torch.ones(3, 16)),
            "to_q has rank 3 in .lora_A.weight and 4 in",
        ),
        (
            lambda t: change_first(t, "lora_A", torch.ones(4, 9)),
            r"lora_A.weight has shape (4, 9), this model",
        ),
        (
            lambda t: change_first(t, "lora_B", torch.full((16, 4), torch.nan)),
            "holds values that are nan or infinite",
        ),
        (lambda t: t.update({"text_encoder.x.lora_A.weight": torch.ones(1)}), "also changes a text encoder"),
        (
            lambda t: t.update({"transformer.x.lokr_w1": torch.ones(1)}),
            "is not a plain LoRA: transformer.x.lokr_w1 is a factor of LoKr",
        ),
        (lambda t: t.update({"transformer.x.dora_scale": torch.ones(1)}), "is not a plain LoRA"),
        (
            lambda t: t.update({"transformer.x.lora_A.weight": torch.ones(1)}),
            "transformer.x.lora_A.weight names no linear layer of this model's SD3Transformer2DModel, while",
        ),
        (
            lambda t: t.pop("transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
            "transformer_blocks.0.attn.to_q has {'.lora_B.weight': (16, 4)}; it needs the two matrices",
        ),
        (
            lambda t: t.update({"transformer.transformer_blocks.0.attn.to_q.alpha": torch.tensor(0.0)}),
            "transformer_blocks.0.attn.to_q has alpha 0.0; one finite number above 0 is",
        ),
    ],
)
def test_files_that_do_not_fit(base_config, comfy, change, message):
    assert message in refusal(comfy(change), base_config)


def test_a_folder_of_several_files_asks_which(base_config, comfy, tmp_path):
    comfy(), comfy(name="y.safetensors")
    assert "holds 2 safetensors files (x.safetensors, y.safetensors); give the path of one" in refusal(
        tmp_path, base_config
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"peft_type": "LORA", "r": 4', "adapter_config.json cannot be read as JSON"),
        ("[]", "adapter_config.json must hold settings by name"),
        ('{"peft_type": "LORA", "r": null, "target_modules": ["a"]}', "has r=None and target_modules=['a']"),
    ],
)
def test_a_broken_config(base_config, comfy, tmp_path, text, message):
    comfy(name="adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    assert message in refusal(tmp_path, base_config)


def test_weights_of_peft_without_their_config(base_config, comfy, tmp_path):
    comfy(name="adapter_model.safetensors")
    assert "there is no adapter_config.json, which states rank and alpha" in refusal(tmp_path, base_config)


def test_layers_of_several_ranks_are_no_start(base_config, comfy):
    def halve(tensors):
        for part, rows in (("lora_A", slice(0, 2)), ("lora_B", (slice(None), slice(0, 2)))):
            key = f"transformer.transformer_blocks.0.attn.to_q.{part}.weight"
            tensors[key] = tensors[key][rows].clone()

    start = str(comfy(halve))
    adapter = LoRA(rank=4, alpha=4, target_modules=PROJECTIONS, init="gaussian", start=start)
    with pytest.raises(
        ValueError, match=r"adapter\.start=.* has layers of several ranks, up to 4; .*merged_svd"
    ):
        check_start(adapter, base_config)
    check_start(
        LoRA(rank=4, alpha=4, target_modules=PROJECTIONS, init="gaussian", start=str(comfy())), base_config
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "FancyTransformer"},
            "has _class_name=FancyTransformer, which is not a model of diffusers",
        ),
        ({"_class_name": None}, "has _class_name=None, which is not a model"),
        ({"_class_name": "DDIMScheduler"}, "has _class_name=DDIMScheduler, which is not a model"),
        ({"num_layers": "two"}, "makes no SD3Transformer2DModel (TypeError: "),
        ({"patch_size": 0}, "makes no SD3Transformer2DModel (ZeroDivisionError: "),
    ],
)
def test_a_config_of_no_model_is_one_line(base_config, changes, message):
    with pytest.raises(ValueError, match=re.escape(f"the transformer's config.json {message}")):
        weightless({**base_config, **changes})
