"""What a report reads back: a damaged file is named, and never left out or believed."""

from __future__ import annotations

import gzip
import json

import pytest

from diffopd.files.sealed import DamagedFileError, write_sealed_json
from diffopd.report.methods.archive import EARLIER, archive_runs, read_archive
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.runs import TABLE, read_run
from support.run_folders import write_run

TABLE_OF_ONE = {"title": "mini: reward by task", "rows": [], "gain_kept": {}}


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(bytes(content))


@pytest.fixture
def run(tmp_path):
    folder = write_run(tmp_path / "run", "a", 0, {"train/loss": [0.5, 0.4]}, scores={"ocr": 0.5})
    write_sealed_json(folder / TABLE, TABLE_OF_ONE)
    return folder


@pytest.mark.parametrize("word", [b'"tasks"', b'"benchmark"', b'"checksum"', b"0.5"])
def test_damaged_scores_are_named_and_not_left_out(run, word):
    assert [path.name for path, _ in read_run(run).results] == ["student_guidance_1.json"]
    scores = run / "report" / "student_guidance_1.json"
    flipped(scores, scores.read_bytes().index(word) + 2)
    with pytest.raises(ValueError, match=r"student_guidance_1\.json"):
        read_run(run)


def test_a_damaged_table_is_named(run):
    assert read_run(run).table == TABLE_OF_ONE
    flipped(run / TABLE, (run / TABLE).read_bytes().index(b"mini"))
    with pytest.raises(DamagedFileError, match=r"table\.json is damaged"):
        read_run(run)


@pytest.mark.parametrize("text", ["- a: [", "a: 1", "\0"])
def test_overrides_that_cannot_be_read_are_an_unknown_command(tmp_path, text):
    folder = write_run(tmp_path / "run", "a", 0, {"train/loss": [0.5]}, finished=False)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(text)
    assert read_run(folder).command == ""


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_byte_of_a_kept_run_counts_or_is_named(run, tmp_path, stride):
    (path,) = archive_runs([read_run(run)], tmp_path / "kept")
    before, kept = path.read_bytes(), read_archive(path)
    for place in range(0, len(before), stride):
        flipped(path, place)
        try:
            assert read_archive(path) == kept
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 (either is right)
        path.write_bytes(before)


def test_other_json_beside_scores_is_passed_over(run):
    (run / "report" / "notes.json").write_text(json.dumps({"of": "mine"}))
    assert len(read_run(run).results) == 1


def test_files_of_runs_that_are_no_longer_shown_are_kept(run, tmp_path):
    other = write_run(tmp_path / "other", "other", 0, {"train/loss": [0.5]})
    kept = tmp_path / "kept"
    archive_runs([read_run(run), read_run(other)], kept)
    (path,) = archive_runs([read_run(other)], kept)
    assert sorted(file.name for file in kept.iterdir()) == [path.name, EARLIER]
    (earlier,) = (kept / EARLIER).iterdir()
    assert read_archive(earlier).series == read_run(run).series
    assert [found.name for found in find_runs([str(kept)])] == ["other"]


@pytest.mark.parametrize("root", ["runs", "absolute"])
def test_a_kept_run_does_not_say_where_it_was_trained_or_found(tmp_path, root):
    work, found = tmp_path / "trained" / "here", tmp_path / "moved"
    root = str(work / "runs") if root == "absolute" else root
    paths = {"root": root, "run": str(work / "runs" / "opd" / "seed0")}
    teacher = {"path": str(work / "runs" / "ocr" / "seed0" / "adapter")}
    settings = {"paths": paths, "teacher": teacher}
    run = write_run(found / "opd", "opd", 0, {"train/loss": [0.5]}, settings=settings)
    (path,) = archive_runs([read_run(run)], tmp_path / "kept")
    assert str(tmp_path) not in gzip.decompress(path.read_bytes()).decode()
    kept = read_archive(path)
    assert str(kept.folder) == "opd"
    assert kept.settings["teacher"] == {"path": "./runs/ocr/seed0/adapter"}
