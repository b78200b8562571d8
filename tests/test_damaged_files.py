"""Small files that are read back: after any damage each is what was written, or it is named."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from diffopd.callbacks import ResumableCSVLogger
from diffopd.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from diffopd.checkpoint.folder import MANIFEST, STATE, TENSORS
from diffopd.config.saved import CONFIG, read_config, write_config
from diffopd.evaluation import FolderRecords
from diffopd.evaluation.result import EvaluationResult, TaskResult
from diffopd.files import fingerprint
from diffopd.files.fingerprint import cached_sha256_of, sha256_of
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json
from diffopd.metric.kept import Kept
from diffopd.model.prompt_cache import PromptCache
from diffopd.run.finished import FINISHED, Finished, read_finished, remove_finished, write_finished
from diffopd.run.metrics_csv import read_rows
from diffopd.teacher import CARD, Estimate, Recipe, TeacherCard
from diffopd.types import Conditioning


def damages(content: bytes, step: int = 1):
    """The content with every bit flipped, or every ``step``-th, and cut at as many lengths."""
    for place in range(0, 8 * len(content), step):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)
    for length in range(0, len(content), step):
        yield content[:length]


STEPS = [5, pytest.param(1, marks=pytest.mark.slow)]
"""A bit or two of every byte each time, and every bit where all is tried."""


def every_outcome(path: Path, read, step: int = 1):
    """What ``read()`` gives after each damage of a file, which is put back at the end."""
    content = path.read_bytes()
    for damaged in damages(content, step):
        path.write_bytes(damaged)
        yield read()
    path.write_bytes(content)


ESTIMATE = Estimate(mean=0.5, low=0.25, high=0.75, n=4)
RECIPE = Recipe(
    command="python -m diffopd.train", seed=0, minutes=1.5, images=12, reward_calls=3, commit="a1"
)
CARD_OF_ONE = TeacherCard(
    name="one",
    task="ocr",
    guidance_scale=4.5,
    base="b",
    rank=2,
    alpha=4.0,
    scores={"mini": {}},
    recipe=RECIPE,
)
RESULT = EvaluationResult(
    benchmark="mini",
    seed=0,
    guidance_scale=1.5,
    adapter=None,
    tasks={
        "ocr": TaskResult(
            value=ESTIMATE, tags={}, parts={}, texts=("a",), groups=(0,), strata=(0,), scores=(0.1,)
        )
    },
    held_out={"spectrum": {"value": 0.5}},
)
CONFIG_OF_ONE = OmegaConf.create({"name": "one", "seed": 0, "trainer": {"max_epochs": 20}})


def card_of(folder):
    return TeacherCard.load(folder)


SEALED = {
    "config": (CONFIG, lambda folder: write_config(CONFIG_OF_ONE, folder), lambda f: read_config(f / CONFIG)),
    "results": ("r.json", lambda f: RESULT.save(f / "r.json"), lambda f: EvaluationResult.load(f / "r.json")),
    "card": (CARD, lambda folder: CARD_OF_ONE.save(folder), card_of),
    "note": (
        "note.json",
        lambda folder: write_sealed_json(folder / "note.json", {"a": {"b": [1, 2.5]}, "c": None}),
        lambda folder: read_sealed_json(folder / "note.json", ("a", "c")),
    ),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", SEALED)
def test_a_file_with_a_checksum_is_what_was_written_or_is_named(tmp_path, kind, step):
    name, write, read = SEALED[kind]
    write(tmp_path)
    expected = read(tmp_path)

    def outcome():
        try:
            return read(tmp_path)
        except ValueError as error:
            return str(error)

    for found in every_outcome(tmp_path / name, outcome, step):
        assert found == expected or re.search(rf"{name}.* is damaged: ", str(found)), found


def test_a_finished_run_is_that_or_is_named(tmp_path, caplog):
    note = Finished(rounds=4, max_rounds=6, recipe={"images": 12}, inputs={"model.path": "0a"})
    write_finished(tmp_path, note)
    for found in every_outcome(tmp_path / FINISHED, lambda: (read_finished(tmp_path), caplog.text), 3):
        assert found[0] == note or (found[0] is None and f"{FINISHED} is damaged" in found[1])
        caplog.clear()
    for text in ("{}", "[]", "", '{"max_rounds": "2", "recipe": {}}', "null", "2"):
        (tmp_path / FINISHED).write_text(text)
        assert read_finished(tmp_path) is None


def test_files_of_earlier_versions_are_read_as_they_are(tmp_path):
    (tmp_path / FINISHED).write_text(
        json.dumps({"max_rounds": 2, "recipe": {"images": 1}, "inputs": {"a": "b"}})
    )
    assert read_finished(tmp_path) == Finished(
        rounds=2, max_rounds=2, recipe={"images": 1}, inputs={"a": "b"}
    )
    (tmp_path / CONFIG).write_text("name: one\n")
    assert read_config(tmp_path / CONFIG) == {"name": "one"}
    (tmp_path / CARD).write_text(json.dumps(dataclasses.asdict(CARD_OF_ONE)))
    assert TeacherCard.load(tmp_path) == CARD_OF_ONE
    (tmp_path / "r.json").write_text(json.dumps(dataclasses.asdict(RESULT)))
    assert EvaluationResult.load(tmp_path / "r.json") == RESULT


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "a\0b: 1", "a: ${oc.env:", "2", "a: 1\n\tb: 2\n"])
def test_what_is_no_config_is_named(tmp_path, text):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(DamagedFileError, match=rf"{CONFIG} is damaged"):
        read_config(tmp_path / CONFIG)


def test_only_what_differs_is_written_again(tmp_path):
    write_config(CONFIG_OF_ONE, tmp_path)
    before = (tmp_path / CONFIG).stat()
    write_config(CONFIG_OF_ONE, tmp_path)
    after = (tmp_path / CONFIG).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    write_config(OmegaConf.merge(CONFIG_OF_ONE, {"seed": 1}), tmp_path)
    assert (tmp_path / CONFIG).stat().st_ino != before.st_ino


def test_removing_the_note_of_an_end_twice_is_no_error(tmp_path):
    write_finished(tmp_path, Finished(rounds=1, max_rounds=1, recipe={}, inputs={}))
    remove_finished(tmp_path)
    remove_finished(tmp_path)
    assert read_finished(tmp_path) is None


@pytest.mark.parametrize("step", STEPS)
def test_a_damaged_hash_note_is_computed_again(tmp_path, monkeypatch, caplog, step):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "LARGE", 4)
    (tmp_path / "weights").write_bytes(b"abcdef")
    expected = cached_sha256_of(tmp_path / "weights")
    assert expected == sha256_of(tmp_path / "weights")
    (note,) = (tmp_path / "cache" / "diffopd" / "sha256").iterdir()

    def outcome():
        return cached_sha256_of(tmp_path / "weights"), caplog.text

    for found, told in every_outcome(note, outcome, step):
        assert found == expected
        assert f"{note} is damaged" in told
        caplog.clear()


@pytest.fixture
def metrics(tmp_path):
    """A file of three rounds, and its rows."""
    logger = ResumableCSVLogger(folder=str(tmp_path))
    for number in range(3):
        logger.log_metrics({"loss": 0.5 + number, "epoch": float(number)}, step=number)
        logger.log_metrics({"seconds": 2.0, "epoch": float(number)}, step=number)
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row["loss"] for row in rows] == ["0.5", "1.5", "2.5"]
    return tmp_path / "metrics.csv", rows


@pytest.mark.parametrize("step", STEPS)
def test_a_damaged_row_of_metrics_is_left_out_and_told(metrics, caplog, step):
    path, expected = metrics
    content = path.read_bytes()
    outcomes = every_outcome(path, lambda: read_rows(path), step)
    for damaged, found in zip(damages(content, step), outcomes, strict=True):
        assert all(row in expected for row in found)
        cut = content.startswith(damaged) and (not damaged or damaged.endswith(b"\n"))  # after a whole row
        assert found == expected or cut or f"{path} is damaged" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "text", ["\0\0\0\n", "a,b\n", '"\n1,2\n', "step,epoch\nx,0.0\n", "\xff\n1\n", "\n\n\n"]
)
def test_a_run_is_resumed_beside_any_metrics(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text, encoding="latin-1")
    logger = ResumableCSVLogger(folder=str(tmp_path))
    logger.go_on_after(3, {"loss": 0.5, "epoch": 1.0})
    logger.log_metrics({"loss": 0.25, "epoch": 2.0}, step=5)
    assert [row["loss"] for row in read_rows(tmp_path / "metrics.csv")] == ["0.5", "0.25"]


def test_damaged_metrics_are_kept_where_they_are_written_anew(metrics, caplog):
    path, expected = metrics
    damaged = path.read_bytes().replace(b"1.5", b"1.7")
    path.write_bytes(damaged)
    ResumableCSVLogger(folder=str(path.parent)).go_on_after(2, {"loss": 2.5, "epoch": 2.0})
    assert read_rows(path) == [expected[0], expected[2]]
    assert path.with_name("metrics.damaged.csv").read_bytes() == damaged
    assert "1 of its rows are left out; the file is kept as metrics.damaged.csv" in caplog.text
    assert "lacks the rows of 1 of the rounds before" in caplog.text


def test_the_checksum_is_no_number(metrics):
    """So that what plots every column of numbers leaves it out."""
    with metrics[0].open(newline="") as file:
        checks = [row["check"] for row in csv.DictReader(file)]
    assert all(re.fullmatch("x[0-9a-f]{8}", check) for check in checks)


def test_a_damaged_record_is_made_again(tmp_path, caplog):
    records = FolderRecords(tmp_path)
    records.add("t", (0, 1), {"m": Kept({"value": torch.tensor([0.5, 0.25])})})
    (file,) = (tmp_path / "t").iterdir()

    def outcome():
        return FolderRecords(tmp_path).done("t"), file.exists()

    for found, there in every_outcome(file, outcome):
        assert (found, there) == ({0, 1}, True) or (
            (found, there) == (set(), False) and str(file) in caplog.text
        )
        if there:
            assert FolderRecords(tmp_path).read("t")[1]["m"].rows["value"].tolist() == [0.5, 0.25]
        caplog.clear()


def test_a_damaged_row_of_the_prompt_cache_is_encoded_again(tmp_path):
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    padded = torch.nn.functional.pad(tokens, (0, 30))  # zeros that the file does not hold
    expected = Conditioning(padded, torch.tensor([[5.0]]), (1,))
    calls = []

    def encode_each(texts):
        calls.extend(texts)
        return (expected for _ in texts)

    PromptCache(tmp_path, {"encoder": "e"}).conditioning(["a red cat"], encode_each)
    (folder,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    (file,) = folder.glob("*.safetensors")

    def outcome():
        calls.clear()
        found = PromptCache(tmp_path, {"encoder": "e"}).conditioning(["a red cat"], encode_each)
        for other in set(folder.glob("*.safetensors")) - {file}:
            other.unlink()
        return found

    for found in every_outcome(file, outcome, step=23):
        assert torch.equal(found.embeds, expected.embeds)
        assert torch.equal(found.pooled, expected.pooled)
        assert found.lengths == (1,)
        assert file.exists() == (not calls)


@pytest.mark.parametrize("name", [MANIFEST, STATE, TENSORS])
def test_a_damaged_checkpoint_is_the_same_or_is_named(tmp_path, name):
    write_checkpoint({"w": torch.ones(1), "epoch": 1}, tmp_path / "c")

    def outcome():
        try:
            return read_checkpoint(tmp_path / "c")
        except CheckpointError as error:
            return str(error)

    for found in every_outcome(tmp_path / "c" / name, outcome, step=5):
        assert found == {"w": torch.ones(1), "epoch": 1} or str(tmp_path / "c") in found


def test_a_prompt_cache_that_cannot_be_a_folder_is_told(tmp_path):
    for place in ("/dev/null", "/proc/diffopd", str(tmp_path / "file" / "inside")):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=rf"model\.prompt_cache={place} cannot be used"):
            PromptCache(place, {"encoder": "e"})
