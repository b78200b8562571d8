"""Files as other programs write them, by those programs' rules: every layer gains ``scale * B A``."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from diffopd.adapter import adapter_strength, load_adapter
from support.tiny_transformers import BUILDERS, RELEASED, flux, in_diffusers, linear_layers, sd3


@dataclass
class Factors:
    """What a program trained for one module: ``alpha / rank * up @ down``."""

    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def change(self) -> Tensor:
        scale = 1.0 if self.alpha is None else self.alpha / len(self.down)
        return scale * (self.up @ self.down)


def trained(shapes, with_alpha=True):
    """Random factors of ranks 1 to 4 and several alphas for modules of these (out, in) shapes."""
    generator, found = torch.Generator().manual_seed(11), {}
    for number, (name, (outputs, inputs)) in enumerate(shapes.items()):
        rank = 1 + number % 4
        alpha = (0.5, 2.0, 3.0, None, 8.0)[number % 5] if with_alpha else None
        down, up = (torch.randn(shape, generator=generator) for shape in ((rank, inputs), (outputs, rank)))
        found[name] = Factors(down, up, alpha)
    return found


def written(found, *, prefix="", ends=("lora_A.weight", "lora_B.weight"), underscored=False):
    """The tensors of a file: per module its two factors and its alpha, if it has one."""
    tensors = {}
    for name, factors in found.items():
        stem = prefix + (name.replace(".", "_") if underscored else name)
        tensors |= {f"{stem}.{ends[0]}": factors.down, f"{stem}.{ends[1]}": factors.up}
        if factors.alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(factors.alpha)
    return tensors


KOHYA = ("lora_down.weight", "lora_up.weight")


def changes_of(transformer, path):
    """What the loaded adapter adds to the weight of each layer, by PEFT's own account."""
    load_adapter(transformer, "teacher", path)
    return {
        name: module.get_delta_weight("teacher").detach()
        for name, module in transformer.named_modules()
        if hasattr(module, "lora_A") and "teacher" in module.lora_A
    }


def assert_same(changes, expected):
    assert set(changes) == set(expected)
    for layer, change in changes.items():
        torch.testing.assert_close(change, expected[layer], rtol=1e-5, atol=1e-5)
        assert change.abs().max() > 0.01


LAYOUTS = {
    "kohya, OneTrainer's KOHYA": {"prefix": "lora_unet_", "ends": KOHYA, "underscored": True},
    "ComfyUI, OneTrainer's COMFY": {"prefix": "diffusion_model."},
    "ComfyUI with up and down": {"prefix": "diffusion_model.", "ends": KOHYA},
    "OneTrainer's ORIGINAL": {},
    "of a whole checkpoint": {"prefix": "model.diffusion_model."},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("family", RELEASED)
def test_names_of_the_release(tmp_path, family, layout):
    """Every linear layer, as diffusers' converter of whole checkpoints takes the same change of the weights.

    Queries, keys and values are rows of one layer there, norms have shift and scale in the other order.
    """
    found = trained(RELEASED[family])
    save_file(written(found, **layout), tmp_path / "x.safetensors")
    transformer = BUILDERS[family]()
    moved = in_diffusers(family, {name: factors.change for name, factors in found.items()})
    expected = {name: moved[f"{name}.weight"] for name in linear_layers(transformer)}
    assert_same(changes_of(transformer, tmp_path / "x.safetensors"), expected)


DIFFUSERS_LAYOUTS = {
    "ComfyUI": {"prefix": "transformer."},
    "ComfyUI with up and down": {"prefix": "transformer.", "ends": KOHYA},
    "SimpleTuner's comfyui": {"prefix": "diffusion_model."},
    "OneTrainer's LEGACY": {"prefix": "lora_transformer_", "ends": KOHYA, "underscored": True},
    "LyCORIS": {"prefix": "lycoris_", "ends": KOHYA, "underscored": True},
    "kohya": {"prefix": "lora_unet_", "ends": KOHYA, "underscored": True},
    "bare": {"ends": KOHYA},
    "DiffSynth": {"ends": ("lora_A.default.weight", "lora_B.default.weight")},
    "DiffSynth's pipeline": {
        "prefix": "pipe.dit.",
        "ends": ("lora_A.default.weight", "lora_B.default.weight"),
    },
    "PEFT in a compiled model": {"prefix": "base_model.model._orig_mod."},
    "PEFT in DistributedDataParallel": {"prefix": "module.base_model.model.transformer."},
}


@pytest.mark.parametrize("layout", DIFFUSERS_LAYOUTS.values(), ids=DIFFUSERS_LAYOUTS)
@pytest.mark.parametrize("family", BUILDERS)
def test_names_of_diffusers(tmp_path, family, layout):
    transformer = BUILDERS[family]()
    shapes = {name: tuple(layer.weight.shape) for name, layer in linear_layers(transformer).items()}
    found = trained(shapes)
    if "base_model" in layout.get(
        "prefix", ""
    ):  # keys of PEFT are read without its config if they state alpha
        found = {name: Factors(item.down, item.up, item.alpha or 1.0) for name, item in found.items()}
    save_file(written(found, **layout), tmp_path / "x.safetensors")
    changes = changes_of(transformer, tmp_path)
    assert_same(changes, {name: factors.change for name, factors in found.items()})


def test_layers_that_were_trained_apart_and_joined_keep_their_rank(tmp_path):
    """OneTrainer, and kohya's ``split_qkv``: ``A`` stacked, ``B`` in blocks, alpha as many times."""
    parts = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    found = {name: Factors(torch.randn(4, 16), torch.randn(16, 4), 2.0) for name in parts}
    down = torch.cat([factors.down for factors in found.values()])
    up = torch.block_diag(*(factors.up for factors in found.values()))
    joined = {"joint_blocks_0_x_block_attn_qkv": Factors(down, up, 6.0)}
    save_file(written(joined, prefix="lora_unet_", ends=KOHYA), tmp_path / "x.safetensors")
    transformer = sd3()
    changes = changes_of(transformer, tmp_path)
    assert_same(changes, {name: factors.change for name, factors in found.items()})
    assert transformer.peft_config["teacher"].r == 4


def test_what_some_exports_of_flux2_left_of_a_name(tmp_path):
    """``transformer.transformer_blocks.`` less as many letters as ``diffusion_model.`` has."""
    found = {"transformer_blocks.0.attn.to_q": Factors(torch.randn(2, 16), torch.randn(16, 2), 3.0)}
    tensors = {key.removeprefix("tran"): value for key, value in written(found).items()}
    save_file({f"diffusion_model.{key}": value for key, value in tensors.items()}, tmp_path / "x.safetensors")
    expected = {name: factors.change for name, factors in found.items()}
    assert_same(changes_of(BUILDERS["flux2"](), tmp_path), expected)


def test_an_xlabs_file_of_flux(tmp_path):
    shapes = {
        "double_blocks.0.processor.qkv_lora1": (48, 16),
        "double_blocks.0.processor.proj_lora2": (16, 16),
    }
    shapes |= {
        "single_blocks.0.processor.qkv_lora": (48, 16),
        "single_blocks.0.processor.proj_lora": (16, 80),
    }
    found = trained(shapes, with_alpha=False)
    save_file(written(found, ends=("down.weight", "up.weight")), tmp_path / "x.safetensors")
    fused, added, single, out = (factors.change for factors in found.values())
    block, single_block = "transformer_blocks.0.attn", "single_transformer_blocks.0"
    expected = {f"{block}.to_{part}": fused[rows] for part, rows in zip("qkv", thirds(), strict=True)}
    expected |= {f"{single_block}.attn.to_{p}": single[rows] for p, rows in zip("qkv", thirds(), strict=True)}
    expected |= {f"{block}.to_add_out": added, f"{single_block}.proj_out": out}
    assert_same(changes_of(flux(), tmp_path), expected)


def thirds():
    return slice(0, 16), slice(16, 32), slice(32, 48)


# Ranks and alphas that a config states, by the libraries themselves.


PATTERNS = {
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["attn.to_q", "attn.to_k", "attn2.to_q", "norm_out.linear"],
    "rank_pattern": {"attn.to_q": 2, "transformer_blocks.1.attn.to_k": 3, r"norm_out\.linear": 1},
    "alpha_pattern": {"transformer_blocks.0.attn.to_q": 5, "attn2.to_q": 1.5, "to_k": 8},
}


def with_random_factors(module):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def their_changes(module, adapter):
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight(adapter).detach()
        for name, layer in module.named_modules()
        if hasattr(layer, "lora_A") and adapter in layer.lora_A
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_a_peft_folder_of_several_ranks_and_alphas(tmp_path, rslora):
    theirs = with_random_factors(get_peft_model(sd3(), LoraConfig(**PATTERNS, use_rslora=rslora)))
    theirs.save_pretrained(tmp_path)
    expected = their_changes(theirs, "default")
    assert len(expected) == 6
    assert len({len(p) for n, p in theirs.named_parameters() if ".lora_A." in n}) == 4
    assert_same(changes_of(sd3(), tmp_path), expected)


def test_a_peft_folder_whose_keys_name_the_adapter(tmp_path):
    """As ``module.state_dict()`` has them, where PEFT's own function takes the name out."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["attn.to_q"])
    theirs = with_random_factors(get_peft_model(sd3(), config))
    tensors = {key: value for key, value in theirs.state_dict().items() if ".lora_" in key}
    assert any(key.endswith(".lora_A.default.weight") for key in tensors)
    config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert_same(changes_of(sd3(), tmp_path), their_changes(theirs, "default"))


def test_a_peft_folder_of_a_model_under_the_names_of_its_release(tmp_path):
    """Trained on the authors' own code: joined layers, and a config that names these."""
    shapes = {"double_blocks.0.img_attn.qkv": (48, 16), "single_blocks.0.linear2": (16, 80)}
    found = {name: Factors(torch.randn(4, i), torch.randn(o, 4), None) for name, (o, i) in shapes.items()}
    save_file(written(found, prefix="base_model.model."), tmp_path / "adapter_model.safetensors")
    LoraConfig(r=4, lora_alpha=6, target_modules=["qkv", "linear2"]).save_pretrained(tmp_path)
    joined, single = (1.5 * factors.change for factors in found.values())
    parts = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    expected = {name: joined[rows] for name, rows in zip(parts, thirds(), strict=True)}
    assert_same(changes_of(flux(), tmp_path), {**expected, "single_transformer_blocks.0.proj_out": single})


@pytest.mark.parametrize("settings", [PATTERNS, {**PATTERNS, "rank_pattern": {}, "alpha_pattern": {}}])
def test_a_file_of_diffusers_with_its_config_in_the_header(tmp_path, settings):
    theirs = sd3()
    theirs.add_adapter(LoraConfig(**settings), "x")
    with_random_factors(theirs)
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(theirs, adapter_name="x"),
        transformer_lora_adapter_metadata=theirs.peft_config["x"].to_dict(),
    )
    assert_same(changes_of(sd3(), tmp_path), their_changes(theirs, "x"))


def simple_tuner(folder, alpha=6.0, **header):
    """SimpleTuner's ``lora_format=comfyui``: alpha in tensors, and a header without the component's name."""
    found = {"transformer_blocks.0.attn.to_q": Factors(torch.randn(4, 16), torch.randn(16, 4), alpha)}
    config = {"r": 4, "lora_alpha": 6, "target_modules": ["transformer_blocks.0.attn.to_q"], **header}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    save_file(written(found, prefix="diffusion_model."), folder / "x.safetensors", header)
    return {name: factors.change for name, factors in found.items()}


def test_a_file_of_simple_tuner(tmp_path):
    expected = simple_tuner(tmp_path)
    assert_same(changes_of(sd3(), tmp_path), expected)


@pytest.mark.parametrize(("alpha", "header"), [(3.0, {}), (6.0, {"use_rslora": True})])
def test_two_statements_of_a_scale_that_differ(tmp_path, alpha, header):
    simple_tuner(tmp_path, alpha, **header)
    message = r"x\.safetensors: layer transformer_blocks\.0\.attn\.to_q has scale .* by the file's header"
    with pytest.raises(ValueError, match=message):
        load_adapter(sd3(), "teacher", tmp_path)


def test_a_stated_rank_that_the_file_does_not_have(tmp_path):
    theirs = with_random_factors(get_peft_model(sd3(), LoraConfig(**PATTERNS)))
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {"to_q": 2}}))
    message = r"layer norm_out\.linear has rank 1, and adapter_config\.json states 4"
    with pytest.raises(ValueError, match=message):
        load_adapter(sd3(), "teacher", tmp_path)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            {"alpha_pattern": {"to_q": -1}},
            r"alpha_pattern in adapter_config\.json gives -1 for .*to_q; a num",
        ),
        (
            {"alpha_pattern": {"to_q": "8"}},
            r"alpha_pattern in adapter_config\.json gives '8' for .*to_q; a num",
        ),
        ({"rank_pattern": {"to_q(": 4}}, r"rank_pattern in adapter_config\.json is not a mapping of layer"),
        ({"rank_pattern": [4]}, r"rank_pattern in adapter_config\.json is not a mapping of layer patterns"),
    ],
)
def test_patterns_without_sense(tmp_path, patterns, message):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["attn.to_q"])
    get_peft_model(sd3(), config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**saved, **patterns}))
    with pytest.raises(ValueError, match=message):
        load_adapter(sd3(), "teacher", tmp_path)


# Alpha, layers that share an ending, layers that are named twice.


@pytest.mark.parametrize(
    "alpha",
    [torch.tensor(6), torch.tensor(6.0, dtype=torch.float16), torch.tensor([6.0]), torch.tensor([[6]])],
)
@pytest.mark.parametrize("name", ["final_layer_linear", "double_blocks_0_img_attn_proj"])
def test_alpha_in_any_form_counts_in_every_layer(tmp_path, alpha, name):
    """Of the final layer too, whose alpha diffusers' converter drops."""
    outputs, layer = (4, "proj_out") if "final" in name else (16, "transformer_blocks.0.attn.to_out.0")
    down, up = torch.randn(4, 16), torch.randn(outputs, 4)
    tensors = {f"lora_unet_{name}.lora_down.weight": down, f"lora_unet_{name}.lora_up.weight": up}
    save_file({**tensors, f"lora_unet_{name}.alpha": alpha}, tmp_path / "x.safetensors")
    assert_same(changes_of(flux(), tmp_path), {layer: 1.5 * up @ down})


def test_a_layer_whose_name_ends_others_is_changed_alone(tmp_path):
    """PEFT takes ``proj_out`` for the end of ``single_transformer_blocks.0.proj_out`` too."""
    found = {"proj_out": Factors(torch.randn(2, 16), torch.randn(4, 2), None)}
    save_file(written(found, prefix="transformer."), tmp_path / "x.safetensors")
    transformer = flux()
    assert_same(changes_of(transformer, tmp_path), {"proj_out": found["proj_out"].change})
    # What is saved of it is the same for PEFT and diffusers, whose pipeline reads the config in the header.
    FluxPipeline.save_lora_weights(
        tmp_path / "saved",
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="teacher"),
        transformer_lora_adapter_metadata=transformer.peft_config["teacher"].to_dict(),
    )
    assert_same(changes_of(flux(), tmp_path / "saved"), {"proj_out": found["proj_out"].change})


def test_a_layer_that_is_named_twice(tmp_path):
    """Some files of Z-Image hold the joined layer beside its parts; that is one change, said twice."""
    down, up = torch.randn(4, 16), torch.randn(48, 4)
    found = {"layers.0.attention.qkv": Factors(down, up, None)}
    for part, rows in zip("qkv", thirds(), strict=True):
        found[f"layers.0.attention.to_{part}"] = Factors(2 * down, up[rows] / 2, None)
    save_file(written(found), tmp_path / "x.safetensors")
    expected = {name: factors.change for name, factors in found.items() if "to_" in name}
    assert_same(changes_of(BUILDERS["z_image"](), tmp_path), expected)
    found["layers.0.attention.to_k"].alpha = 2.0
    save_file(written(found), tmp_path / "x.safetensors")
    message = (
        r"x\.safetensors changes layer layers\.0\.attention\.to_k twice and differently, as layers\.0\.att"
    )
    with pytest.raises(ValueError, match=message):
        load_adapter(BUILDERS["z_image"](), "teacher", tmp_path)


def test_one_scale_is_kept_for_layers_of_one_scale(tmp_path):
    """What needs no change of ``B`` is not changed: factors come back bit for bit."""
    found = {name: Factors(torch.randn(4, 16), torch.randn(16, 4), 6.0) for name in ("a", "b")}
    names = [f"transformer_blocks.{number}.attn.to_q" for number in (0, 1)]
    found = dict(zip(names, found.values(), strict=True))
    save_file(written(found, prefix="transformer."), tmp_path / "x.safetensors")
    transformer = sd3()
    load_adapter(transformer, "teacher", tmp_path)
    assert adapter_strength(transformer, "teacher") == 1.5
    layer = transformer.get_submodule(names[1])
    assert torch.equal(layer.lora_B["teacher"].weight, found[names[1]].up)
