"""Fingerprints of what a training learns from: by content, whatever the path."""

from __future__ import annotations

import json
import shutil

import pytest

from diffopd.check.values import plain_values
from diffopd.files import fingerprint as hashes
from diffopd.files.fingerprint import cached_sha256_of, sha256_of
from diffopd.run.inputs import fingerprint, inputs_of
from support.pictures import write_pairs

TEACHER = "teacher.teachers.ocr.path"
GROUPS = ("adapter", "teacher", "regulariser", "reward", "model")


@pytest.fixture
def values(world, tmp_path):
    """The plain config of a distillation whose teachers, base and prompts are copies in ``tmp_path``."""
    for task, folder in world.teachers.items():
        shutil.copytree(folder, tmp_path / "teachers" / task)
    shutil.copytree(world.pipeline, tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("a sign that says CAT\na sign that says DOG\n")
    return plain_values(
        world.config(
            "mopd_ode",
            tmp_path / "run",
            f"model.path={tmp_path / 'base'}",
            f"data.tasks.ocr.path={tmp_path / 'prompts.txt'}",
            f"adapter.start={tmp_path / 'teachers' / 'signs'}",
            *(f"teacher.teachers.{t}.path={tmp_path / 'teachers' / t}" for t in ("ocr", "aesthetic")),
        )
    )


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_every_file_that_a_distillation_learns_from_has_one(values):
    found = inputs_of(values, GROUPS)
    tasks = ("composition", "ocr", "aesthetic")
    expected = {f"teacher.teachers.{t}.path" for t in tasks} | {f"data.tasks.{t}.path" for t in tasks}
    assert found.keys() == expected | {"model.path", "adapter.start"}
    assert len(set(found.values())) == len(found)
    assert inputs_of(values, GROUPS) == found


def test_a_group_that_the_phase_does_not_take_is_not_read(values):
    assert inputs_of(values, ()).keys() == {
        f"data.tasks.{t}.path" for t in ("composition", "ocr", "aesthetic")
    }


DAMAGES = {
    TEACHER: lambda folder: flip_a_bit(folder / "teachers" / "ocr" / "adapter_model.safetensors"),
    "adapter.start": lambda folder: flip_a_bit(folder / "teachers" / "signs" / "adapter_model.safetensors"),
    "model.path": lambda folder: flip_a_bit(next((folder / "base" / "transformer").glob("*.safetensors"))),
    "data.tasks.ocr.path": lambda folder: (folder / "prompts.txt").write_text("another\n"),
}


@pytest.mark.parametrize("setting", DAMAGES)
def test_another_content_has_another_fingerprint_and_no_other_changes(values, tmp_path, setting):
    before = inputs_of(values, GROUPS)
    DAMAGES[setting](tmp_path)
    after = inputs_of(values, GROUPS)
    assert {name for name in before if before[name] != after[name]} == {setting}


def test_a_text_encoder_or_a_tokenizer_is_part_of_the_base(values, tmp_path):
    before = fingerprint(values, "model.path")
    (tmp_path / "base" / "tokenizer" / "vocab.json").write_text("{}")
    assert fingerprint(values, "model.path") != before


def test_the_guidance_of_a_teachers_card_counts_and_its_scores_do_not(values, tmp_path):
    card = tmp_path / "teachers" / "ocr" / "card.json"
    content, before = json.loads(card.read_text()), fingerprint(values, TEACHER)
    card.write_text(json.dumps(content | {"name": "renamed"}))
    assert fingerprint(values, TEACHER) == before
    card.write_text(json.dumps(content | {"guidance_scale": 7.0}))
    assert fingerprint(values, TEACHER) != before


def test_a_place_is_no_part_of_what_lies_there(values, tmp_path):
    before = fingerprint(values, TEACHER)
    (tmp_path / "teachers" / "ocr").rename(tmp_path / "elsewhere")
    values["teacher"]["teachers"]["ocr"]["path"] = str(tmp_path / "elsewhere")
    assert fingerprint(values, TEACHER) == before


def test_of_pictures_files_and_captions_count_and_nothing_beside_them(tmp_path):
    folder = write_pairs(tmp_path / "pairs")
    data = {"path": str(folder), "captions": "auto", "picture_key": "file_name", "caption_key": None}
    values, lines = {"data": data}, folder / "metadata.jsonl"
    before = inputs_of(values, ())
    assert before.keys() == {"data.path"}
    (folder / "picture9.png").write_bytes((folder / "picture1.png").read_bytes())
    assert inputs_of(values, ()) == before
    lines.write_text(lines.read_text().replace("thing 1", "thing one"))
    recaptioned = inputs_of(values, ())
    flip_a_bit(folder / "picture1.png")
    assert len({before["data.path"], recaptioned["data.path"], inputs_of(values, ())["data.path"]}) == 3


def test_a_local_scorer_is_an_input_and_one_on_the_hub_is_not(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"weights")
    reward = {"path": str(tmp_path / "clip"), "tokenizer_path": "someone/clip", "address": str(tmp_path)}
    found = inputs_of({"reward": {"rewards": {"ocr": reward}}}, ["reward"])
    assert found.keys() == {"reward.rewards.ocr.path"}
    found = inputs_of({"reward": {"model_path": str(tmp_path / "clip"), "path": None}}, ["reward"])
    assert found.keys() == {"reward.model_path"}


def test_a_large_file_is_read_once_until_it_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 4)
    file, read = tmp_path / "weights", []
    monkeypatch.setattr(hashes, "sha256_of", lambda path: (read.append(path), sha256_of(path))[1])
    file.write_bytes(b"abcdef")
    first = cached_sha256_of(file)
    assert (cached_sha256_of(file), len(read)) == (first, 1)
    assert first == sha256_of(file)
    file.write_bytes(b"ghijkl")
    assert cached_sha256_of(file) == sha256_of(file) != first
    assert len(read) == 2


def test_a_cache_that_cannot_be_kept_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the cache's folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 1)
    (tmp_path / "weights").write_bytes(b"abc")
    assert cached_sha256_of(tmp_path / "weights") == sha256_of(tmp_path / "weights")
