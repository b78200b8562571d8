"""A model on the hub is pinned to the commit it means, in a cache laid out as the hub's."""

import logging

import huggingface_hub.constants
import pytest
from diffusers import StableDiffusion3Pipeline
from diffusers.pipelines import pipeline_utils
from omegaconf import OmegaConf

from diffopd.build.pin import pin_model
from diffopd.model import read_transformer_config
from diffopd.model.loading import pipeline_folder, resolved_commit
from support.tiny_pipelines import without_t5

NEW, OLD = "a" * 40, "0123456789" * 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """someone/base: its main branch is at one commit, the tag v1 at another; the hub cannot be reached."""
    root = tmp_path / "models--someone--base"
    for reference, commit in (("main", NEW), ("v1", OLD)):
        (root / "snapshots" / commit).mkdir(parents=True)
        (root / "snapshots" / commit / "model_index.json").write_text("{}")
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / reference).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD)])
def test_a_revision_means_a_commit(cache, revision, commit):
    assert resolved_commit("someone/base", revision) == commit


def test_a_folder_has_none(cache, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    assert resolved_commit(str(tmp_path), None) is None
    assert resolved_commit("package://assets/mini_sd3", None) is None
    with pytest.raises(ValueError, match=r"model\.path=someone/absent: there is no such folder .* the hub"):
        resolved_commit("someone/absent", None)


def test_the_commit_is_noted_and_told_once(cache, caplog):
    cfg = OmegaConf.create({"model": {"path": "someone/base", "revision": None}})
    OmegaConf.set_struct(cfg, True)
    with caplog.at_level(logging.WARNING):
        pin_model(cfg)
        pin_model(cfg)
    assert cfg.model.revision == NEW
    (record,) = caplog.records
    assert f"no model.revision was given: commit {NEW} of the hub is used" in record.getMessage()
    assert f"model.revision={NEW} pins it" in record.getMessage()


def test_other_configs_stay_as_they_are(cache, caplog):
    for content in ({}, {"model": None}, {"model": {"path": "package://assets/mini_sd3", "revision": None}}):
        cfg = OmegaConf.create(content)
        pin_model(cfg)
        assert cfg == OmegaConf.create(content)
    assert not caplog.records


def test_a_model_of_the_cache_loads_by_its_id(tmp_path, monkeypatch):
    """The library's own download, without a network, finds the pinned snapshot."""
    root = tmp_path / "models--someone--tiny"
    tiny = without_t5(root / "snapshots" / NEW)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(NEW)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for module in (huggingface_hub.constants, pipeline_utils):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path), raising=False)
    cfg = OmegaConf.create({"model": {"path": "someone/tiny", "revision": None}})
    pin_model(cfg)
    folder = pipeline_folder("someone/tiny", cfg.model.revision, (), StableDiffusion3Pipeline)
    assert folder.resolve() == tiny.folder.resolve()
    assert (
        read_transformer_config("someone/tiny", cfg.model.revision)["_class_name"] == "SD3Transformer2DModel"
    )
