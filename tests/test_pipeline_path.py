"""Paths of a pipeline: a folder, the hub's, or a mistake that is told as what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffopd.model.loading import pipeline_folder
from diffopd.weights.pipeline_path import local_pipeline


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "weights.safetensors").touch()
    return tmp_path


def test_a_folder_with_an_index_is_a_pipeline(here):
    (here / "models" / "model_index.json").write_text("{}")
    assert local_pipeline("models") == Path("models")
    assert local_pipeline("package://assets/mini_sd3").is_dir()


def test_an_owner_and_a_name_may_be_the_hubs():
    assert local_pipeline("stabilityai/stable-diffusion-3.5-medium") is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models", "models holds no model_index.json"),
        ("weights.safetensors", "is a file; give the folder of a whole pipeline"),
        ("models/sd35", "there is no such folder (.*/models/sd35). models is a folder here"),
        ("a/b/c", "there is no such folder (.*/a/b/c); give the folder"),
        ("./sd35", "there is no such folder (.*/sd35)"),
        ("/absent/sd35", "there is no such folder (/absent/sd35)"),
        ("models/sd 35", "there is no such folder (.*/models/sd 35)"),
        ("sd35", "there is no such folder (.*/sd35)"),
        ("@owner/name", "for the hub write model.path=owner/name"),
        ("owner/name@v2", "for the hub write model.path=owner/name model.revision=v2"),
        ("https://huggingface.co/owner/name", "is an address; give a folder, or owner/name"),
        ("file:///models/sd35", "is an address"),
    ],
)
def test_a_path_that_is_neither(path, expected):
    pattern = re.escape(expected).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=rf"^model\.path={re.escape(path)}.*{pattern}"):
        local_pipeline(path)


def test_what_the_hub_does_not_deliver_is_first_of_all_no_folder_here(monkeypatch):
    def download(path, **_):
        raise OSError("Repository Not Found\n for url")

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    with pytest.raises(
        ValueError, match=r"^model\.path=model/sd35: there is no such folder \(.*/model/sd35\)"
    ):
        pipeline_folder("model/sd35")
