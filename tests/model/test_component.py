"""What libraries load without a word: tensors that are missing, left over, not finite, or no floats."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel
from hydra.errors import InstantiationException
from safetensors.torch import load_file, save_file

from diffopd.model import SD3Model
from diffopd.model import loading as pipelines
from diffopd.model.component import load_component
from diffopd.model.untrained import pipeline_to_train
from support.family_models import load
from support.tiny_families import make_family
from support.tiny_pipelines import with_t5, without_t5

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return with_t5(tmp_path_factory.mktemp("with_t5"))


@pytest.fixture
def tiny(original, tmp_path):
    """The settings of a copy that may be damaged."""
    shutil.copytree(original.folder, tmp_path / "copy")
    return {**original.settings, "path": str(tmp_path / "copy")}, tmp_path / "copy"


def change(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, {"format": "pt"})


def set_value(key, value):
    def edit(tensors):
        tensors[key].view(-1)[-1] = value

    return edit


FILES = {
    "transformer": (TRANSFORMER, "proj_out.weight"),
    "vae": ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
    "text_encoder": ("text_encoder/model.safetensors", "text_model.final_layer_norm.weight"),
    "text_encoder_3": ("text_encoder_3/model.safetensors", "encoder.final_layer_norm.weight"),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("component", FILES)
def test_a_weight_that_is_not_finite(tiny, component, value):
    settings, folder = tiny
    file, key = FILES[component]
    change(folder / file, set_value(key, value))
    with pytest.raises(
        ValueError, match=rf"copy: {component}: tensor .*{key.rpartition('.')[0]}.* nan or inf"
    ):
        SD3Model(**settings)


def test_with_a_prompt_cache_encoders_are_looked_at_when_they_are_used(tiny, tmp_path):
    settings, folder = tiny
    settings["prompt_cache"] = str(tmp_path / "cache")
    kept = SD3Model(**settings)
    kept.encode(["a cat"])
    file, key = FILES["text_encoder_3"]
    change(folder / file, set_value(key, float("nan")))
    model = SD3Model(**settings)  # nothing read them so far
    for _ in range(2):
        with pytest.raises(ValueError, match=r"text_encoder_3: tensor .* nan or inf"):
            model.encode(["a dog"])


def test_weights_beyond_the_range_of_fp16(tiny):
    settings, folder = tiny
    change(folder / TRANSFORMER, set_value("proj_out.weight", 1e6))
    SD3Model(**settings)
    with pytest.raises(ValueError, match=r"exceed fp16's range: set model\.dtype=bf16"):
        SD3Model(**{**settings, "dtype": "fp16"})


@pytest.mark.parametrize("component", FILES)
def test_a_tensor_that_is_missing(tiny, component):
    settings, folder = tiny
    file, key = FILES[component]
    change(folder / file, lambda tensors: tensors.pop(key))
    with pytest.raises(ValueError, match=rf"{component}: 1 tensors that its config.json needs are missing"):
        SD3Model(**settings)


def test_a_table_that_is_missing(tiny):
    """A buffer, which is set up without values as the file has it."""
    settings, folder = tiny
    change(folder / TRANSFORMER, lambda tensors: tensors.pop("pos_embed.pos_embed"))
    with pytest.raises(ValueError, match=r"are missing \(first: pos_embed.pos_embed\)"):
        SD3Model(**settings)


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        ("transformer", {"num_layers": -1}, "tensors have no place in the model of its config.json"),
        ("transformer", {"num_layers": 1}, "transformer cannot be loaded .*expected shape"),
        ("transformer", {"qk_norm": None}, "tensors have no place in the model of its config.json"),
        ("transformer", {"dual_attention_layers": [0, 1]}, "are missing|expected shape"),
        ("transformer", {"num_attention_heads": "two"}, "transformer cannot be loaded"),
        ("transformer", {"patch_size": 0}, "transformer cannot be loaded"),
        ("vae", {"latent_channels": 5}, "vae cannot be loaded"),
        ("text_encoder", {"num_hidden_layers": -1}, "text_encoder: 32 tensors have no place"),
        ("text_encoder_3", {"num_layers": 1}, "text_encoder_3: \\d+ tensors have no place"),
        ("text_encoder_3", {"d_model": 8}, "text_encoder_3 cannot be loaded"),
    ],
)
def test_a_config_that_is_not_that_of_the_weights(tiny, component, changes, message):
    settings, folder = tiny
    file = folder / component / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=message) as refused:
        SD3Model(**settings)
    assert "\n" not in str(refused.value)


def test_a_head_that_a_text_encoder_does_not_use_does_no_harm(tmp_path):
    """Language models are saved with one."""
    family = make_family("z_image", tmp_path / "pipeline")
    file = tmp_path / "pipeline" / "text_encoder" / "model.safetensors"
    change(file, lambda tensors: tensors.update({"lm_head.weight": torch.ones(2, 8)}))
    load(family)
    change(file, lambda tensors: tensors.update({"layers.7.mlp.up_proj.weight": torch.ones(2, 8)}))
    with pytest.raises(InstantiationException, match=r"1 tensors have no place .*layers.7.mlp"):
        load(family)


def test_a_model_set_up_without_values_is_the_same_to_the_bit(original):
    """Loaded as by the library alone, parameters and buffers, in each precision and in shards."""
    folder = original.folder / "transformer"
    for dtype in (torch.float32, torch.bfloat16):
        ours = load_component(SD3Transformer2DModel, folder, dtype=dtype, where="x")
        theirs = SD3Transformer2DModel.from_pretrained(str(folder), dtype=dtype)
        for kind in ("named_parameters", "named_buffers"):
            found, expected = (dict(getattr(model, kind)()) for model in (ours, theirs))
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert (found[name].dtype, found[name].device) == (tensor.dtype, tensor.device)
                assert torch.equal(found[name], tensor), name
        assert not any(
            isinstance(value, torch.Tensor) for module in ours.modules() for value in vars(module).values()
        )
        assert ours.config == theirs.config
        assert not ours.training


def test_a_model_in_shards_is_the_same_to_the_bit(original, tmp_path):
    one = load_component(
        SD3Transformer2DModel, original.folder / "transformer", dtype=torch.float32, where="x"
    )
    one.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    many = load_component(SD3Transformer2DModel, tmp_path, dtype=torch.float32, where="x").state_dict()
    assert many.keys() == one.state_dict().keys()
    assert all(torch.equal(tensor, many[name]) for name, tensor in one.state_dict().items())


def test_the_position_table_is_not_computed(original, monkeypatch):
    made = []
    monkeypatch.setattr(
        "diffusers.models.embeddings.get_2d_sincos_pos_embed_from_grid",
        lambda dim, grid, **_: (
            made.append(grid.device.type) or torch.zeros(grid[0].numel(), dim, device="meta")
        ),
    )
    load_component(SD3Transformer2DModel, original.folder / "transformer", dtype=torch.float32, where="x")
    assert made == ["meta"]


def test_loading_many_gigabytes_is_announced(original, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        SD3Model(**original.settings)
    assert not [line for line in caplog.messages if line.startswith("load")]
    monkeypatch.setattr(pipelines, "WORTH_A_LINE", 1000)
    with caplog.at_level(logging.INFO):
        SD3Model(**original.settings)
    lines = [line for line in caplog.messages if line.startswith("load")]
    assert lines[0].startswith(f"loading {original.folder}, 0.0 GB")
    assert [line.partition(",")[0].removeprefix("loading ") for line in lines[1:-1]] == [
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "transformer",
        "vae",
    ]
    assert lines[-1].startswith("loaded in ")
    caplog.clear()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with caplog.at_level(logging.INFO):
        SD3Model(**original.settings)
    assert not [line for line in caplog.messages if line.startswith("load")]


def test_a_pipeline_that_is_trained_whole_is_checked_alike(tmp_path):
    folder = without_t5(tmp_path / "pipeline").folder
    pipeline_to_train(path=str(folder))
    change(folder / TRANSFORMER, set_value("proj_out.weight", float("nan")))
    with pytest.raises(
        ValueError, match=r"^pipeline\.path=.*: transformer: tensor proj_out.weight has values"
    ):
        pipeline_to_train(path=str(folder))
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^pipeline\.path=.*: tokenizer_2/merges.txt is missing"):
        pipeline_to_train(path=str(folder))


@pytest.mark.parametrize("name", ["z_image", "flux2_klein"])
def test_a_pipeline_that_writes_conversations_needs_their_template(name, tmp_path):
    """It is told before weights load, not at the first prompt."""
    family = make_family(name, tmp_path / "pipeline")
    template = tmp_path / "pipeline" / "tokenizer" / "chat_template.jinja"
    template.unlink()
    (tmp_path / "pipeline" / "transformer" / "config.json").write_text("{}")  # would be an error, too
    with pytest.raises(Exception, match=r"tokenizer has no chat template, neither in chat_template\.jinja"):
        load(family)


def test_reading_all_values_of_a_large_model_is_told(tiny, monkeypatch, caplog):
    """Files are mapped when they load, so it is here that they come from the disk."""
    settings, _ = tiny
    monkeypatch.setattr("diffopd.weights.finite.WORTH_A_LINE", 1)
    with caplog.at_level(logging.INFO, "diffopd"):
        SD3Model(**settings)
    told = [record.message for record in caplog.records if "reading the values of" in record.message]
    assert len(told) == 5  # transformer, autoencoder, three text encoders
    assert told[0] == f"reading the values of model.path={settings['path']}: transformer, 0.0 GB"
