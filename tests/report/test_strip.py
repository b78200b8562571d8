"""Samples over rounds: which rounds are shown, and where."""

import itertools
import logging

import pytest
import torch
from PIL import Image

from diffopd.files.sample_row import SampleRow, list_rows, read_row
from diffopd.report.run.strip import evenly, save_strip
from support.run_folders import write_samples


def colours(path, *, columns, rows):
    """The colour in the middle of each cell."""
    with Image.open(path) as strip:
        assert strip.size == (240 + columns * 136 + 8, 36 + rows * 136)
        return [
            [strip.getpixel((240 + 64 + x * 136, 36 + 64 + y * 136)) for x in range(columns)]
            for y in range(rows)
        ]


def test_a_column_for_each_round_and_a_row_for_each_prompt(tmp_path):
    write_samples(tmp_path / "samples", rounds=(20, 0, 47))
    path = save_strip(tmp_path / "samples", tmp_path / "report" / "strip.png")
    assert colours(path, columns=3, rows=2) == [
        [(number, row, 0) for number in (0, 20, 47)] for row in (0, 1)
    ]


def test_of_many_rounds_eight_are_shown_with_the_first_and_the_last(tmp_path):
    write_samples(tmp_path / "samples", rounds=range(0, 221, 20))
    path = save_strip(tmp_path / "samples", tmp_path / "strip.png")
    (first, _) = colours(path, columns=8, rows=2)
    rounds = [red for red, _, _ in first]
    assert (rounds[0], rounds[-1]) == (0, 220)
    assert {b - a for a, b in itertools.pairwise(rounds)} == {20, 40}


@pytest.mark.parametrize(("number", "most"), [(1, 8), (8, 8), (9, 8), (100, 8), (3, 2)])
def test_places_rise_from_the_first_to_the_last(number, most):
    places = evenly(number, most)
    assert places == sorted(set(places))
    assert (places[0], places[-1], len(places)) == (0, number - 1, min(number, most))


def test_damaged_rows_and_those_of_other_prompts_are_left_out(tmp_path, caplog):
    folder = tmp_path / "samples"
    write_samples(folder, rounds=(0, 20), prompts=("other", "prompts"))
    write_samples(folder, rounds=(40, 60, 80, 100))
    (folder / "round_000060.png").write_bytes((folder / "round_000060.png").read_bytes()[:100])
    Image.new("RGB", (60, 60)).save(folder / "round_000080.png")
    (folder / ".round_000120.png.x.writing").write_bytes(b"half")
    (folder / "round_000140.txt").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        path = save_strip(folder, tmp_path / "strip.png")
    assert [red for red, _, _ in colours(path, columns=2, rows=2)[0]] == [40, 100]
    for name in ("round_000060.png", "round_000080.png"):
        assert f"samples are left out: {folder / name}" in caplog.text


def test_no_strip_without_samples(tmp_path):
    assert save_strip(tmp_path / "absent", tmp_path / "strip.png") is None
    assert not (tmp_path / "strip.png").exists()


def test_large_images_are_made_smaller_where_room_is_short(tmp_path):
    row = SampleRow(round=0, prompts=("a",), tasks=("ocr",), made_from="x")
    row.save(row.picture(torch.rand(1, 3, 512, 512)), tmp_path)
    with Image.open(save_strip(tmp_path, tmp_path / "strip" / "one.png")) as strip:
        assert strip.size == (240 + 256 + 16, 36 + 256 + 8)
    with Image.open(save_strip(tmp_path, tmp_path / "strip" / "two.png", side=128)) as strip:
        assert strip.size == (240 + 128 + 16, 36 + 128 + 8)


def test_a_row_is_read_as_it_was_written(tmp_path):
    row = SampleRow(round=7, prompts=("größer", "猫", "x" * 300), tasks=("a", "b", ""), made_from="digest")
    images = torch.rand(3, 3, 128, 128)
    path = row.save(row.picture(images), tmp_path)
    assert path.name == "round_000007.png"
    assert list_rows(tmp_path) == [path]
    found, pictures = read_row(path)
    assert found == row
    assert row.is_in(tmp_path)
    assert [picture.size for picture in pictures] == [(128, 128)] * 3
    pixel = tuple((images[2, :, 0, 127] * 255).round().int().tolist())
    assert pictures[2].getpixel((127, 0)) == pixel
