"""Models side by side on one picture: what is where, and that it can be read back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from diffopd.files.grid import enlarged
from diffopd.files.png import save_png
from diffopd.files.sample_sheet import SampleSheet, read_sheet


def sheet(num_rows=2, columns=("base", "ocr\nteacher", "student"), side=32):
    """Row r, column c: a plain picture of red r and green c."""
    colours = [[torch.tensor([r / 255, c / 255, 0.0]) for c in range(len(columns))] for r in range(num_rows)]
    return SampleSheet(
        columns=columns,
        prompts=[("ocr", f"prompt {row}") for row in range(num_rows)],
        scores=[[0.25 * column for column in range(len(columns))] for _ in range(num_rows)],
        rule="The rule.",
        images=[[enlarged(c.view(3, 1, 1).expand(3, side, side)) for c in row] for row in colours],
    )


@pytest.mark.parametrize("side", [32, 48, 512])
def test_a_sheet_is_read_as_it_was_written(tmp_path, side):
    made = sheet(side=side)
    found = read_sheet(made.save(tmp_path / "samples.png"))
    assert (tuple(found.columns), list(found.prompts)) == (made.columns, made.prompts)
    assert ([list(row) for row in found.scores], found.rule) == (made.scores, "The rule.")
    for mine, theirs in zip(found.images, made.images, strict=True):
        assert [image.tobytes() for image in mine] == [image.tobytes() for image in theirs]


def test_scores_stand_under_their_images():
    made = sheet()
    blank = dataclasses.replace(made, scores=[[None] * 3] * 2)
    with_scores, without = made.picture(), blank.picture()
    assert with_scores.size == without.size == (240 + 3 * 136 + 8, 56 + 2 * (136 + 16))
    for row in range(2):
        for column in range(3):
            left, top = 240 + column * 136, 56 + row * 152 + 128
            under = with_scores.crop((left, top, left + 128, top + 16))
            assert len(under.getcolors()) > 1  # a number
            assert without.crop((left, top, left + 128, top + 16)).getcolors() == [
                (128 * 16, (255, 255, 255))
            ]


def test_a_strip_has_a_row_per_model_and_a_column_per_prompt():
    made = dataclasses.replace(sheet(3), prompts=[("composition", "a"), ("ocr", "b"), ("ocr", "c")])
    strip = made.strip()
    lefts = [112, 112 + 102 + 18, 112 + 2 * 102 + 18]  # images of 96 pixels, 6 apart, 18 more between tasks
    assert strip.size == (lefts[-1] + 96 + 6, 108 + 3 * 116)
    for row in range(3):
        for column in range(3):
            pixel = strip.getpixel((lefts[column] + 48, 108 + row * 116 + 48))
            assert pixel == (column, row, 0)  # red is the prompt's number, green the model's


def test_other_pictures_are_told_apart(tmp_path):
    other = save_png(Image.new("RGB", (656, 172)), tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"does not say what it shows .*; run the report again"):
        read_sheet(other)
    path = sheet().save(tmp_path / "samples.png")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(OSError, match=r"damaged|truncated"):
        read_sheet(path)
    with pytest.raises(OSError, match=r"absent\.png"):
        read_sheet(tmp_path / "absent.png")
