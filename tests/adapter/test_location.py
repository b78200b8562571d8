"""Where adapters lie: folders, files, and the hub (a stand-in for it, as tests have no network)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors.torch import save_file

from diffopd.adapter import find_card, find_place
from diffopd.check.paths import path_problems


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"x": torch.ones(1)}, folder / name)
        else:
            (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("names", "kind", "place"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "peft", ""),
        (
            ["pytorch_lora_weights.safetensors", "other.safetensors"],
            "lora",
            "pytorch_lora_weights.safetensors",
        ),
        (["my_style.safetensors"], "lora", "my_style.safetensors"),
        (["model_index.json", "transformer/config.json", "vae/config.json"], "transformer", "transformer"),
        (["config.json", "diffusion_pytorch_model.safetensors"], "transformer", ""),
    ],
)
def test_what_a_folder_holds(tmp_path, names, kind, place):
    found = find_place(put(tmp_path, *names), setting="x")
    assert (found.kind, found.path) == (kind, tmp_path / place)


def test_what_a_file_is(tmp_path):
    put(tmp_path, "adapter_config.json", "adapter_model.safetensors", "x.safetensors")
    put(tmp_path / "whole", "config.json", "diffusion_pytorch_model.safetensors")
    assert find_place(tmp_path / "adapter_model.safetensors", setting="x").kind == "peft"
    assert find_place(tmp_path / "x.safetensors", setting="x").kind == "lora"
    with pytest.raises(
        ValueError, match=r"is a part of a whole model; give the folder that also holds config"
    ):
        find_place(tmp_path / "whole" / "diffusion_pytorch_model.safetensors", setting="x")


def test_a_variant_is_no_second_set_of_weights(tmp_path):
    parts = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    put(tmp_path, "config.json", "diffusion_pytorch_model.fp16.safetensors", *parts)
    index = {"weight_map": {f"layer{n}.weight": name for n, name in enumerate(parts)}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    for key, name in index["weight_map"].items():
        save_file({key: torch.zeros(1)}, tmp_path / name)
    assert [file.name for file in find_place(tmp_path, setting="x").weights] == parts


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "nowhere", "here/nowhere"])
def test_a_path_that_is_not_there_is_no_question_for_the_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=rf"teacher\.path={path}: there is no such folder or file"):
        find_place(path, setting="teacher.path")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("@someone/peft", r"does not begin with @, which stands before a revision: give someone/peft$"),
        (
            "teacher@v1/x",
            r"'teacher' before the @ is no owner/name; a name on the hub is owner/name\[/folder\]",
        ),
        (
            "https://huggingface.co/someone/many/resolve/v2/b/kohya.safetensors?download=true",
            r"this is the URL of a page, .* by name: someone/many/b/kohya\.safetensors@v2$",
        ),
        ("https://huggingface.co/someone/peft/tree/main", r"by name: someone/peft$"),
        ("https://hf.co/someone/peft", r"by name: someone/peft$"),
        ("https://example.org/x.safetensors", r"URLs are not fetched; download the file and give its path"),
        ("file:///tmp/x.safetensors", r"URLs are not fetched; download the file and give its path"),
        ("here/peft", r"The folder here/ is here, so .* not on the hub; if here/peft is on the hub, rename"),
    ],
)
def test_each_slip_in_a_name_has_a_sentence_of_its_own(hub, tmp_path, path, message):
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=message) as refused:
        find_place(path, setting="teacher.path")
    assert str(refused.value).startswith(f"teacher.path={path}: ")
    assert hub[1] == []
    assert find_card(path) is None
    assert [
        line for line in path_problems({"adapter_path": path}) if re.search(message.removesuffix("$"), line)
    ]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with three repositories on disk; every call is noted."""
    root, calls = tmp_path / "hub", []
    put(root / "someone/peft", "adapter_config.json", "adapter_model.safetensors", "card.json")
    put(root / "someone/many", "a/lora/adapter_config.json", "a/lora/adapter_model.safetensors")
    put(root / "someone/many", "b/pytorch_lora_weights.safetensors", "b/kohya.safetensors")
    put(root / "someone/whole", "model_index.json", "transformer/config.json", "vae/x.safetensors")
    put(root / "someone/whole", "transformer/diffusion_pytorch_model.safetensors")
    put(root / "someone/pickled", "adapter_config.json", "adapter_model.bin")
    monkeypatch.chdir(tmp_path)

    def download(repository, name, revision=None):
        calls.append((repository, name, revision))
        if repository == "someone/offline":
            raise LocalEntryNotFoundError("the hub cannot be reached")
        if not (root / repository / name).is_file():
            error = RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
            raise error
        return str(root / repository / name)

    def snapshot(repository, *, revision, allow_patterns, ignore_patterns):
        calls.append((repository, *allow_patterns))
        return str(root / repository)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return root, calls


@pytest.mark.parametrize(
    ("path", "kind", "place"),
    [
        ("someone/peft", "peft", "peft"),
        ("someone/many/a/lora@abc", "peft", "many/a/lora"),
        ("someone/many/a/lora/adapter_model.safetensors@abc", "peft", "many/a/lora"),
        ("someone/many/b", "lora", "many/b/pytorch_lora_weights.safetensors"),
        ("someone/many/b/kohya.safetensors", "lora", "many/b/kohya.safetensors"),
        ("someone/whole", "transformer", "whole/transformer"),
    ],
)
def test_what_the_hub_has(hub, path, kind, place):
    found = find_place(path, setting="x")
    assert (found.kind, found.path) == (kind, hub[0] / "someone" / place)
    assert {call[2] for call in hub[1] if len(call) == 3 and "@" in path} <= {"abc"}


def test_of_a_whole_pipeline_the_transformer_alone_is_fetched(hub):
    find_place("someone/whole", setting="x")
    patterns = ("transformer/config.json", "transformer/diffusion_pytorch_model*")
    assert hub[1][-1] == ("someone/whole", *patterns)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "someone/many",
            r"the hub's someone/many holds none of adapter_model\.safetensors, .* its top folder",
        ),
        ("someone/pickled", r"holds none of adapter_model\.safetensors"),
        (
            "someone/offline",
            r"is neither a local folder or file nor an adapter on the hub: the hub cannot",
        ),
        (
            "someone/offline/a@v1/x",
            r"cannot be reached\. The revision goes at the end: did you mean someone/offline/a/x@v1\?",
        ),
    ],
)
def test_what_the_hub_does_not_have(hub, path, message):
    with pytest.raises(ValueError, match=rf"teacher\.path={path}.*{message}"):
        find_place(path, setting="teacher.path")


def test_cards(hub, tmp_path):
    put(tmp_path / "here", "card.json", "x.safetensors")
    assert find_card(tmp_path / "here") == tmp_path / "here" / "card.json"
    assert find_card(tmp_path / "here" / "x.safetensors") is None  # it may be another file's
    assert find_card(tmp_path / "nowhere") is None
    assert find_card("someone/peft") == Path(hub[0] / "someone/peft/card.json")
    assert find_card("someone/many/a/lora") is None
    assert find_card("someone/peft/adapter_model.safetensors") is None
