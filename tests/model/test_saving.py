"""Saved pipelines name no folder of the machine they were made on, and are whole or absent."""

from __future__ import annotations

import json

import pytest
from diffusers import Flux2KleinPipeline

from diffopd.model.saving import forget_origin, save_pipeline
from support.tiny_families import make_family


def configs(folder):
    return {file: file.read_text() for file in folder.rglob("*.json")}


def test_a_pipeline_does_not_say_where_it_was_loaded_from(tmp_path):
    loaded = make_family("flux2_klein", tmp_path / "first").stock()
    loaded.save_pretrained(tmp_path / "theirs")
    assert any(str(tmp_path) in text for text in configs(tmp_path / "theirs").values()), "nothing to forget"
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "old").touch()
    save_pipeline(loaded, tmp_path / "ours")
    assert not (tmp_path / "ours" / "old").exists()
    assert not any(
        str(tmp_path) in text or "_name_or_path" in text for text in configs(tmp_path / "ours").values()
    )
    again = Flux2KleinPipeline.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert again.components.keys() == loaded.components.keys()
    for name, file in {"transformer": "config.json", "text_encoder": "config.json"}.items():
        mine, theirs = (json.loads((tmp_path / who / name / file).read_text()) for who in ("ours", "theirs"))
        theirs.pop("_name_or_path", None)
        assert list(mine.items()) == list(theirs.items())


def test_a_pipeline_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    class Broken:
        def save_pretrained(self, folder, **_):
            (folder / "model_index.json").write_text("{")
            raise OSError(28, "No space left on device")

    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "old").touch()
    with pytest.raises(OSError, match="No space left"):
        save_pipeline(Broken(), tmp_path / "pipeline")
    assert [path.name for path in tmp_path.rglob("*")] == ["pipeline", "old"]


def test_models_within_a_model_are_reached(tmp_path):
    config = {
        "_name_or_path": "/a",
        "text_config": {"_name_or_path": "/b", "layers": [{"_name_or_path": "/c"}]},
    }
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text(json.dumps(config))
    forget_origin(tmp_path)
    assert json.loads((tmp_path / "part" / "config.json").read_text()) == {"text_config": {"layers": [{}]}}
