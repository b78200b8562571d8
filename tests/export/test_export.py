"""``diffopd.export`` as users call it: every format is read back by its own tool, and described."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from peft import PeftModel
from safetensors.torch import load_file, save_file

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, load_adapter, save_adapter
from diffopd.checkpoint import write_checkpoint
from diffopd.export import __main__ as command
from diffopd.export.formats import Format, comfyui_tensors
from diffopd.files.fingerprint import sha256_of
from diffopd.model import SD3Model
from diffopd.teacher import Recipe, Score, TeacherCard
from support.tiny_pipelines import TinyPipeline, with_t5

ROOT = Path(__file__).parents[2]
TARGETS = ("attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj")
FILES = {
    "peft": {"adapter_config.json", "adapter_model.safetensors"},
    "diffusers": {"pytorch_lora_weights.safetensors"},
    "comfyui": {"lora_comfyui.safetensors"},
    "merged": {"model_index.json", "transformer", "vae", "scheduler", "text_encoder", "text_encoder_2"}
    | {"text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyPipeline:
    return with_t5(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The folder a training leaves, its checkpoints gone; and what its adapter answers."""
    folder, model = tmp_path_factory.mktemp("run"), SD3Model(**tiny.settings)
    save_random(model, folder / "adapter")
    (folder / "report").mkdir()
    (folder / "report" / "table.md").write_text("| student | 0.9 |\n")
    (folder / "report" / "samples.png").write_bytes(b"a picture")
    teacher = folder / "teacher.safetensors"
    save_file({"x": torch.ones(1)}, teacher)
    settings = {
        "name": "my_run",
        "model": {"_target_": "diffopd.model.SD3Model", **tiny.settings},
        "teacher": {"teachers": {"ocr": {"path": str(teacher), "guidance_scale": 4.5}}},
        "sampler": {"guidance_scale": 3.0},
        "paths": {"run": "a private folder"},
    }
    settings["teacher"]["teachers"]["gone"] = {"path": str(folder / "gone"), "guidance_scale": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    recipe = {"command": "python -m diffopd.train", "seed": 7, "minutes": 1.5, "images": 12}
    recipe |= {"reward_calls": 3, "commit": "abc"}
    (folder / "finished.json").write_text(json.dumps({"max_rounds": 2, "recipe": recipe}))
    return folder


def save_random(model, folder, scale=0.3, name="student"):
    generator = torch.Generator().manual_seed(0)
    config = LoRA(rank=4, alpha=12, init="gaussian", target_modules=TARGETS, start=None)
    add_adapter(model.transformer, name, config, generator)
    with torch.no_grad():
        for parameter in adapter_parameters(model.transformer, name).values():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return save_adapter(model.transformer, name, folder)


def exported(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        command.run(compose("export", overrides=["device=cpu", *overrides]))


def at(model):
    generator = torch.Generator().manual_seed(8)
    latent = torch.randn(2, *model.latent_shape, generator=generator)
    return latent, torch.tensor([0.8, 0.3]), model.encode(["a cat", "two dogs"])


@torch.no_grad()
def answer(transformer, latent, sigma, conditioning):
    return transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample


def read_back(written_as, folder, tiny):
    """The transformer as a user of that tool would have it."""
    stock = tiny.load_stock()
    if written_as == "peft":
        return PeftModel.from_pretrained(stock.transformer, str(folder))
    if written_as == "diffusers":
        stock.load_lora_weights(str(folder))
    if written_as == "merged":
        return StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True).transformer
    if written_as == "comfyui":
        tensors = load_file(folder / "lora_comfyui.safetensors")
        for key in [key for key in tensors if key.endswith(".alpha")]:
            stem = key.removesuffix(".alpha")
            layer = stock.transformer.get_submodule(stem.removeprefix("transformer."))
            down, up = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
            with torch.no_grad():
                layer.weight += float(tensors[key]) / len(down) * up @ down
    return stock.transformer


@pytest.mark.parametrize("written_as", list(FILES))
def test_each_format_answers_in_its_own_tool_as_in_training(tiny, run, tmp_path, capsys, written_as):
    to = tmp_path / "out" / "export"
    exported(f"run={run}", f"format={written_as}", f"to={to}")
    assert {path.name for path in to.iterdir()} == FILES[written_as] | {"README.md", "samples.png"}
    assert [path.name for path in to.parent.iterdir()] == ["export"]
    model = SD3Model(**tiny.settings)
    load_adapter(model.transformer, "student", run / "adapter")
    given = at(model)
    with torch.no_grad():
        ours, base = model.velocity(*given, "student"), model.velocity(*given)
    theirs = answer(read_back(written_as, to, tiny), *given)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-5)
    assert (ours - base).abs().max() > 0.02
    shown = capsys.readouterr().out
    assert "read back: largest difference of velocities " in shown
    assert f"{written_as}: {to}" in shown


def test_the_transformer_alone_is_a_teacher(tiny, run, tmp_path):
    exported(f"run={run}", "format=merged", "whole_pipeline=false", f"to={tmp_path / 'x'}")
    found = {path.name for path in (tmp_path / "x").iterdir()}
    assert found == {"transformer", "README.md", "samples.png"}
    SD3Transformer2DModel.from_pretrained(tmp_path / "x" / "transformer", local_files_only=True)


def test_a_checkpoint_is_exported_with_its_settings_and_nothing_of_the_end(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    place = folder / "checkpoints" / "round_000002"
    write_checkpoint(
        {"w": torch.ones(1)}, place, {"adapter": lambda part: shutil.copytree(run / "adapter", part)}
    )
    (folder / "finished.json").unlink()  # of a run in training the newest checkpoint is meant, too
    for number, source in enumerate((place, folder)):
        to = tmp_path / str(number)
        exported(f"run={source}", "format=peft", f"to={to}")
        card = (to / "README.md").read_text()
        assert "# my_run, round_000002" in card
        assert "`guidance_scale=3` in training" in card
        for text in ("1.5 minutes", "| student | 0.9 |", "](samples.png)"):
            assert text not in card


def test_the_model_card(tiny, run, tmp_path):
    exported(f"run={run}", "format=peft", f"to={tmp_path / 'x'}")
    card = (tmp_path / "x" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "peft",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffopd", "lora"],
    }
    for part in (
        "# my_run",
        f"weights `{SD3Model(**tiny.settings).identity}`",
        f"| ocr | `{run / 'teacher.safetensors'}` | 4.5 | `{sha256_of(run / 'teacher.safetensors')}` |",
        f"| gone | `{run / 'gone'}` | as in its card.json | no longer there when this was exported |",
        "`python -m diffopd.train`, seed 7, commit abc: 1.5 minutes, 12 images sampled, 3 scored.",
        "| student | 0.9 |",
        "](samples.png)",
        sha256_of(tmp_path / "x" / "adapter_model.safetensors"),
        "`max_sequence_length=6`, `guidance_scale=3` in training",
        "## License",
        "guidance_scale: 3.0",
    ):
        assert part in text, part
    assert "a private folder" not in text


def test_an_adapter_by_itself_and_its_card(tiny, run, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(run / "adapter", folder)
    TeacherCard(
        name="teacher_ocr",
        task="ocr",
        guidance_scale=2.5,
        base="x",
        rank=4,
        alpha=12.0,
        scores={"bench": {"ocr": Score(mean=0.5, low=0.4, high=0.6, n=500)}},
        recipe=Recipe(command="train", seed=1, minutes=2.5, images=6, reward_calls=6, commit="abc"),
    ).save(folder)
    model = [f"model.{key}={tiny.settings[key]}" for key in ("path", "image_size", "text_length")]
    for written_as, with_card in (("peft", True), ("comfyui", False)):
        to = tmp_path / written_as
        exported(f"adapter_path={folder}", *model, f"format={written_as}", f"to={to}")
        assert (to / "card.json").is_file() == with_card
        assert "| bench | ocr | 0.500 | 0.400 to 0.600 | 500 |" in (to / "README.md").read_text()
    # What was exported for ComfyUI is an adapter here, too.
    again = tmp_path / "again"
    exported(f"adapter_path={tmp_path / 'comfyui'}", *model, "format=peft", f"to={again}")
    first, second = (load_file(place / "adapter_model.safetensors") for place in (folder, again))
    assert first.keys() == second.keys()
    assert all(first[key].equal(second[key]) for key in first)


def test_comfyui_keys_of_sd3_5_medium_are_those_of_the_committed_list():
    """The architecture at its real depth, without memory for its weights."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            num_layers=24,
            attention_head_dim=64,
            num_attention_heads=24,
            joint_attention_dim=4096,
            caption_projection_dim=1536,
            pooled_projection_dim=2048,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = instantiate(compose("train", overrides=["adapter=lora", "model=sd3_5_medium"]).adapter)
    add_adapter(transformer, "student", config, torch.Generator())
    tensors = comfyui_tensors(transformer, "student")
    committed = json.loads((ROOT / "tests" / "data" / "comfyui_sd3_5_medium_keys.json").read_text())["keys"]
    assert sorted(tensors) == committed
    alphas = [value for key, value in tensors.items() if key.endswith(".alpha")]
    assert {value.shape for value in alphas} == {torch.Size([])}
    assert {float(value) for value in alphas} == {64.0}


# What is refused.


def test_what_reads_back_as_something_else_is_not_left_behind(run, tmp_path, monkeypatch):
    def wrong_alpha(transformer, name):
        tensors = comfyui_tensors(transformer, name)
        return {key: 3 * value if "0.attn.to_q.alpha" in key else value for key, value in tensors.items()}

    monkeypatch.setattr("diffopd.export.formats.comfyui_tensors", wrong_alpha)
    with pytest.raises(ValueError, match=r"read back and differs: .*is above tolerance=0\.05"):
        exported(f"run={run}", "format=comfyui", f"to={tmp_path / 'x'}")
    assert not list(tmp_path.iterdir())


def test_half_precision_that_swallows_the_adapter_is_told(tiny, run, tmp_path):
    weak = tmp_path / "weak"
    save_random(SD3Model(**tiny.settings), weak, scale=0.004)
    model = [f"model.{key}={tiny.settings[key]}" for key in ("path", "image_size", "text_length")]
    given = [f"adapter_path={weak}", *model, "format=merged"]
    with pytest.raises(
        ValueError, match=r"Weights in half precision cannot hold small changes: set model\.dtype"
    ):
        exported(*given, "model.dtype=bf16", f"to={tmp_path / 'bf16'}")
    exported(*given, "model.dtype=fp32", f"to={tmp_path / 'fp32'}")


def test_a_base_in_half_precision_is_compared_without_its_rounding(tiny, run, tmp_path):
    given = [f"run={run}", "model_dtype=bf16", "tolerance=1e-3"]
    exported(*given, "format=diffusers", f"to={tmp_path / 'exact'}")
    exported(*given[:2], "format=merged", f"to={tmp_path / 'merged'}")
    weights = load_file(tmp_path / "merged" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("written_as", list(FILES))
def test_half_precision_is_judged_by_its_own_rounding(run, tmp_path, capsys, monkeypatch, written_as):
    """What is read back is compared with the adapter rounded as its reader rounds: a wrong file shows."""
    given = [f"run={run}", "model_dtype=bf16", "compare_in_fp32=false", f"format={written_as}"]
    exported(*given, "tolerance=0.02", f"to={tmp_path / 'right'}")
    told = capsys.readouterr().out
    assert ("and rounding to the base's precision by up to" in told) == (written_as != "peft")
    monkeypatch.setattr(Format, "fresh_transformer", with_one_layer_changed(Format.fresh_transformer))
    with pytest.raises(ValueError, match="read back and differs"):
        exported(*given, f"to={tmp_path / 'wrong'}")


def with_one_layer_changed(fresh):
    def changed(self, model, folder):
        transformer = fresh(self, model, folder)
        with torch.no_grad():
            transformer.transformer_blocks[0].attn.to_q.weight *= 1.5
        return transformer

    return changed


def test_one_transformer_at_a_time(run, tmp_path, monkeypatch):
    """When a transformer is read, the weights of the model's own are gone, and of any read before."""
    alive = []
    load = SD3Transformer2DModel.from_pretrained

    def counted(*args, **kwargs):
        loaded = load(*args, **kwargs)
        transformer = loaded[0] if isinstance(loaded, tuple) else loaded  # with what was missing in the file
        alive.append(weakref.ref(transformer))
        return loaded

    def check(model, *_):
        gc.collect()
        others = [ref() for ref in alive[1:] if ref() is not None]  # the first is the model's own
        assert not others
        assert model.transformer.device == torch.device("meta")

    fresh = Format.fresh_transformer
    monkeypatch.setattr(SD3Transformer2DModel, "from_pretrained", counted)
    monkeypatch.setattr(
        Format, "fresh_transformer", lambda self, model, folder: check(model) or fresh(self, model, folder)
    )
    for written_as in ("peft", "merged"):  # an adapter and a whole model
        alive.clear()
        exported(f"run={run}", f"format={written_as}", f"to={tmp_path / written_as}")


def test_an_adapter_without_effect_is_not_exported(tiny, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "adapter")
    save_random(SD3Model(**tiny.settings), folder / "adapter", scale=0.0)
    with pytest.raises(ValueError, match=r"run=.* changes no velocity at all.*phase\.ema\.update_interval"):
        exported(f"run={folder}", "format=diffusers", f"to={tmp_path / 'x'}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "neither run nor adapter given; give one"),
        (["run=a", "adapter_path=b"], "run=a and adapter=b given; give one"),
        (["run={nowhere}"], r"run=.*nowhere holds no config\.yaml; give the folder of a run"),
        (
            ["run={begun}"],
            "has neither an adapter nor a checkpoint yet .*; train it until its first",
        ),
        (["run={pipeline}"], "trained a whole pipeline, not an adapter"),
        (
            ["adapter_path=x", "model_path=y"],
            r"model_path=y is for run=\.\.\.; with adapter=\.\.\. set model\.path=y",
        ),
        (["run={full}", "to={full}"], "to=.* is not empty; give a new folder"),
    ],
)
def test_refusals_before_weights_load(run, tmp_path, monkeypatch, overrides, message):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(SD3Model, "__init__", load)
    for name in ("begun", "pipeline", "full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: x\n" if name == "pipeline" else "model: {}\n")
    (tmp_path / "pipeline" / "adapter").mkdir()
    places = {name: tmp_path / name for name in ("nowhere", "begun", "pipeline", "full")}
    filled = [override.format(**places) for override in overrides]
    if not any(override.startswith("to=") for override in filled):
        filled.append(f"to={tmp_path / 'x'}")
    with pytest.raises(ValueError, match=message):
        exported(*filled)


def test_a_run_whose_model_has_moved(tiny, run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny.folder, moved)
    exported(f"run={run}", f"model_path={moved}", "format=diffusers", f"to={tmp_path / 'x'}")
    assert "`moved`" in (tmp_path / "x" / "README.md").read_text()


def test_every_long_step_is_told(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "diffopd.export"):
        exported(f"run={run}", "format=comfyui", f"to={tmp_path / 'x'}")
    assert [record.message for record in caplog.records if record.name == "diffopd.export.write"] == [
        "encoding a prompt",
        "asking the base and the adapter for velocities",
        "writing LoRA file in ComfyUI's layout",
        "reading it back and comparing",
        "hashing what was written, for the model card",
    ]
