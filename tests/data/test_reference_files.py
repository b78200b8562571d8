"""Reference pictures that files of prompts and captions name."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from diffopd.data.figure_prompts import write_figure_prompts
from diffopd.data.pairs import PairData
from diffopd.data.prompt_files import read_prompts
from diffopd.data.prompts import PromptData
from diffopd.evaluation.benchmark import BenchmarkTask
from diffopd.run.inputs import inputs_of


def save(folder, **sizes):
    for name, (width, height) in sizes.items():
        Image.new("RGB", (width, height), "red").save(folder / f"{name}.png")


@pytest.fixture
def prompts(tmp_path):
    """Two prompts, the first with two references."""
    (tmp_path / "shown").mkdir()
    save(tmp_path / "shown", cat=(70, 100), hat=(2000, 1000))
    lines = [
        {"prompt": "the cat with the hat", "references": ["shown/cat.png", "shown/hat.png"]},
        {"prompt": "a dog"},
    ]
    file = tmp_path / "edits.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def sizes(pictures):
    return [picture.size for picture in pictures]


def test_a_prompt_comes_with_the_pictures_of_its_line(prompts):
    settings = {"path": str(prompts), "prompts_per_round": 2, "group_size": 2}
    batch = PromptData(seed=0, schedule="accumulate", tasks={"edit": settings}).batch(0)
    shown = dict(zip(batch.texts, batch.references, strict=True))
    # Multiples of 16; 2000 x 1000 pixels scaled to 1448 x 724, of a megapixel.
    assert sizes(shown["the cat with the hat"]) == [(96, 64), (720, 1440)]
    assert shown["a dog"] == ()
    assert sum(len(row) for row in batch.references) == 4  # both rows of the group
    task = BenchmarkTask(path=str(prompts), num_prompts=None, images_per_prompt=1, metric=None)
    assert [sizes(row) for row in task.prompts("edit").references] == [[(96, 64), (720, 1440)], []]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"a": 1}, "line 1: reference pictures must be the place of one file below"),
        ([1], "got [1]"),
        ("missing.png", "missing.png is not there"),
        (
            ["small.png"],
            "small.png has 40 x 90 pixels (height x width): a reference picture needs at least 64",
        ),
    ],
)
def test_what_cannot_be_shown_is_named(tmp_path, references, message):
    save(tmp_path, small=(90, 40))
    file = tmp_path / "edits.jsonl"
    file.write_text(json.dumps({"prompt": "a cat", "references": references}))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prompts(file, "edit")


def pairs(folder, **changes):
    settings = {
        "seed": 0,
        "path": str(folder),
        "task": "pictures",
        "captions": "auto",
        "picture_key": "file_name",
        "caption_key": None,
        "image_size": 64,
        "buckets": "none",
        "bucket_step": 64,
        "background": [255, 255, 255],
        "prompts_per_round": 2,
        "group_size": 1,
        "reference_key": "before",
    }
    return PairData(**settings | changes)


def test_pairs_have_the_references_of_a_key(tmp_path):
    save(tmp_path, after=(64, 64), other=(64, 64), before=(80, 64))
    lines = [
        {"file_name": "after.png", "text": "with a hat", "before": "before.png"},
        {"file_name": "other.png", "text": "in the snow", "before": ["before.png", "after.png"]},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    batch = pairs(tmp_path).batch(0)
    shown = dict(zip(batch.texts, batch.references, strict=True))
    assert {text: sizes(row) for text, row in shown.items()} == {
        "with a hat": [(64, 80)],
        "in the snow": [(64, 80), (64, 64)],
    }
    assert all(target is not None for target in batch.targets)
    assert set(pairs(tmp_path, reference_key=None).batch(0).references) == {()}
    with pytest.raises(
        ValueError, match=r"(?s)data.reference_key=old.*line 1 .*after.png.* has no 'old'.*line 2"
    ):
        pairs(tmp_path, reference_key="old")


def test_another_reference_is_another_input(prompts):
    values = {"data": {"tasks": {"edit": {"path": str(prompts)}}}}
    before = inputs_of(values, [])
    assert inputs_of(values, []) == before
    save(prompts.parent / "shown", cat=(70, 101))
    assert inputs_of(values, []) != before


def test_a_run_hashes_references_without_decoding_them(prompts, monkeypatch):
    monkeypatch.setattr("diffopd.data.reference_files.picture_size", lambda file: pytest.fail("decoded"))
    values = {"data": {"tasks": {"edit": {"path": str(prompts)}}}}
    assert inputs_of(values, [])
    (prompts.parent / "shown" / "hat.png").unlink()
    with pytest.raises(
        ValueError, match=r"edits\.jsonl, line 1: the reference picture .*hat\.png cannot be read"
    ):
        inputs_of(values, [])


def test_figures_are_shown_as_they_are_and_elsewhere(tmp_path):
    file = write_figure_prompts(tmp_path / "figures", seed=0, number=2, side=64)
    copy, again, *_ = entries = read_prompts(file, "figures")
    assert len(entries) == 4
    assert copy.text.endswith(", the same picture")
    assert "the same figure" in again.text
    assert copy.references == again.references
    assert sizes(copy.references) == [(64, 64)]
    assert copy.references != entries[2].references
