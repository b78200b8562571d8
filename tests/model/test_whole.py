"""Folders that are not whole: told by name before anything is hashed or loaded, for every family."""

from __future__ import annotations

import json
import shutil

import pytest
from hydra.errors import InstantiationException
from hydra.utils import get_class
from safetensors.torch import load_file, save_file

from diffopd.model import loading
from diffopd.run.inputs import inputs_of
from support.family_models import composed, load
from support.tiny_families import CLASSES, FAMILIES, make_family


@pytest.fixture(scope="module", params=CLASSES)
def family(request, tmp_path_factory):
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def broken(family, tmp_path):
    """A copy of the pipeline to damage, and what is said of it."""
    folder = tmp_path / "copy"
    shutil.copytree(family.folder, folder)

    model = composed(family).model
    kind = get_class(model._target_)
    left_out = kind.left_out(model.text_length)

    def said() -> str:
        with pytest.raises(ValueError, match=r"^model\.path=") as refused:
            loading.whole_pipeline(str(folder), kind=kind.kind, revision=None, without=left_out)
        return str(refused.value).removeprefix(f"model.path={folder}: ")

    return folder, said


def parts(folder, start=""):
    index = json.loads((folder / "model_index.json").read_text())
    there = (name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None)
    return sorted(name for name in there if name.startswith(start))


def test_each_component_that_is_missing_is_named(broken):
    folder, said = broken
    for name in parts(folder):
        (folder / name).rename(folder / "aside")
        assert said().startswith(f"{name} is missing, which model_index.json names; fetch or copy")
        (folder / "aside").rename(folder / name)


def test_each_tokenizer_without_its_files(broken):
    folder, said = broken
    assert parts(folder, "tokenizer")
    for name in parts(folder, "tokenizer"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            place, content = folder / name / file, (folder / name / file).read_bytes()
            for left in (None, b"", b"{}\n"):
                place.unlink() if left is None else place.write_bytes(left)
                found = said()
                assert found.startswith(f"{name}/")
                assert "made-up vocabulary" in found
                place.write_bytes(content)


def test_each_model_without_its_weights_or_its_config(broken):
    folder, said = broken
    for name in [n for n in parts(folder) if (folder / n / "config.json").is_file()]:
        [weights] = (folder / name).glob("*.safetensors")
        variant = weights.with_name(f"{weights.stem}.fp16.safetensors")
        weights.rename(variant)
        assert said().startswith(
            f"{name}/{weights.name} is missing; there is only the variant {variant.name}"
        )
        variant.rename(weights)
        config, text = folder / name / "config.json", (folder / name / "config.json").read_text()
        config.unlink()
        assert said().startswith(f"{name}/config.json is missing")
        config.write_text(text[:-5])
        assert said().startswith(f"{name}/config.json cannot be read as JSON")
        for setting in ("transformers_weights", "quantization_config"):
            config.write_text(json.dumps({**json.loads(text), setting: {"a": 1}}))
            assert f"has the setting {setting}" in said()
        config.write_text(json.dumps({**json.loads(text), "attn_implementation": "a/kernel"}))
        assert "has attn_implementation=a/kernel, code on the hub" in said()
        config.write_text(text)
        (folder / name / "adapter_config.json").write_text("{}")
        assert said().startswith(f"{name} holds adapter_config.json")
        (folder / name / "adapter_config.json").unlink()


def test_an_index_that_lacks_a_tokenizer_beside_its_encoder(broken):
    folder, said = broken
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    for name in parts(folder, "tokenizer"):
        encoder = name.replace("tokenizer", "text_encoder")
        for changed in ({**index, name: [None, None]}, {k: v for k, v in index.items() if k != name}):
            file.write_text(json.dumps(changed))
            assert said().startswith(f"model_index.json has no {name} beside {encoder}, which is there")
    for name in ("transformer", "vae", "scheduler", "text_encoder"):
        file.write_text(json.dumps({**index, name: [None, None]}))
        assert f"model_index.json has no {name}" in said()
    for entry in (
        ["os", "system"],
        ["diffusers", "NoSuchModel"],
        ["diffusers"],
        ["diffusers", "DDIMScheduler"],
    ):
        file.write_text(json.dumps({**index, "transformer": entry}))
        assert f"model_index.json says transformer is {entry}" in said()
    file.write_text("{")
    assert said().startswith("model_index.json cannot be read as JSON")


def test_it_is_told_before_anything_is_hashed(family, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(family.folder, folder)
    next((folder / "text_encoder").glob("*.safetensors")).unlink()
    monkeypatch.setattr("diffopd.files.fingerprint.sha256_of", lambda path: pytest.fail(f"hashed {path}"))
    values = {"model": {**composed(family).model, "path": str(folder)}}
    with pytest.raises(ValueError, match=r"text_encoder/model.safetensors is missing"):
        inputs_of(values, ["model"])


def test_a_tokenizer_of_another_vocabulary(family, tmp_path):
    """Whole files, as they would be for another model."""
    folder = tmp_path / "copy"
    shutil.copytree(family.folder, folder)
    for name in parts(folder, "tokenizer"):
        file = folder / name / "tokenizer.json"
        text = file.read_text()
        for lengthen in (False, True):
            content = json.loads(text)
            vocabulary = content["model"]["vocab"]
            if isinstance(vocabulary, list):  # T5's pieces with their scores
                content["model"]["vocab"] = (
                    vocabulary + [[f"piece{n}", -9.0] for n in range(200)] if lengthen else vocabulary[:8]
                )
            else:
                kept = {piece: n for piece, n in vocabulary.items() if lengthen or n < 8}
                added = {f"piece{n}": len(vocabulary) + n for n in range(200)} if lengthen else {}
                content["model"]["vocab"] = kept | added
            file.write_text(json.dumps(content))
            with pytest.raises(
                InstantiationException, match=rf"{name} (has \d+ tokens, its text encoder|cannot)"
            ):
                load(family, f"model.path={folder}")
        file.write_text(text)


def test_identity_and_fingerprint_are_of_the_files_that_are_read(family, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(family.folder, folder)
    model = composed(family).model
    kind, values = get_class(model._target_), {"model": {**model, "path": str(folder)}}

    def identities():
        return kind.identity_at(str(folder), None, model.text_length), inputs_of(values, ["model"])

    before = identities()
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({"a": tensors[next(iter(tensors))]}, folder / "transformer" / "decoy.safetensors")
    assert identities() == before  # nobody reads it
    shards = {}
    for number, keys in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        name = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({key: tensors[key] for key in keys}, folder / "transformer" / name)
        shards |= dict.fromkeys(keys, name)
    index = folder / "transformer" / f"{weights.name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    sharded = identities()
    assert sharded[0] != before[0]
    assert sharded[1] != before[1]
    first = sorted(tensors)[0]
    save_file(
        {key: tensors[key] * (1.5 if key == first else 1.0) for key in sorted(tensors)[::2]},
        folder / "transformer" / shards[first],
    )
    changed = identities()
    assert changed[0] != sharded[0]
    assert changed[1] != sharded[1]
    (folder / "transformer" / "weights.bin").write_bytes(b"a pickle")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(shards, "weights.bin")}))
    with pytest.raises(ValueError, match=r"names weights\.bin, which is no \.safetensors file"):
        inputs_of(values, ["model"])


def test_every_family_is_here():
    assert {name.partition("_")[0] for name in CLASSES} == {name.partition("_")[0] for name in FAMILIES}
