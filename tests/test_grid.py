import pytest
import torch
from PIL import Image

from diffopd.files.grid import image_sheet, sample_grid
from diffopd.report.run.images import ImageCollector
from diffopd.types import Prompts

RED, GREEN, BLUE = (
    torch.tensor(c).view(3, 1, 1).expand(3, 32, 32) for c in ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))
)


def test_grid_places_each_image_in_its_row_and_column():
    grid = sample_grid(
        [[RED, GREEN], [BLUE, RED]], columns=["base", "student"], rows=[("ocr", "a sign"), ("ocr", "two")]
    )
    # 240 pixels of labels, 36 of header; images of 32 pixels enlarged fourfold, 8 apart.
    centres = {(x, y): grid.getpixel((240 + 64 + x * 136, 36 + 64 + y * 136)) for x in (0, 1) for y in (0, 1)}
    assert centres == {
        (0, 0): (255, 0, 0),
        (1, 0): (0, 255, 0),
        (0, 1): (0, 0, 255),
        (1, 1): (255, 0, 0),
    }
    assert grid.size == (240 + 2 * 136 + 8, 36 + 2 * 136)


def test_small_images_are_enlarged_pixel_by_pixel():
    stripes = torch.zeros(3, 32, 32)
    stripes[:, :, ::2] = 1
    grid = sample_grid([[stripes]], columns=["base"], rows=[("t", "p")])
    row = [grid.getpixel((240 + x, 50)) for x in range(12)]
    assert row == [(255,) * 3] * 4 + [(0,) * 3] * 4 + [(255,) * 3] * 4


def test_labels_must_match():
    with pytest.raises(
        ValueError, match=r"one label per row and column, got rows of \[1\] images for 1 row labels"
    ):
        sample_grid([[RED]], columns=["base", "student"], rows=[("t", "p")])


def test_sheet_goes_in_reading_order():
    sheet = image_sheet(torch.stack([RED, GREEN, BLUE]), ["a", "b", "c"], num_columns=2)
    assert sheet.getpixel((8 + 60, 8 + 60)) == (255, 0, 0)
    assert sheet.getpixel((8 + 136 + 60, 8 + 60)) == (0, 255, 0)
    assert sheet.getpixel((8 + 60, 8 + 128 + 51 + 8 + 8 + 60)) == (0, 0, 255)


def test_long_prompts_are_cut_not_overlaid():
    short = image_sheet(RED[None], ["a"])
    long = image_sheet(RED[None], ["a very long prompt " * 40])
    assert long.size == short.size


def test_large_images_shrink():
    grid = sample_grid([[torch.rand(3, 512, 512)]], columns=["base"], rows=[("t", "p")])
    assert grid.width == 240 + 256 + 16


def test_collector_keeps_the_first_and_saves_all(tmp_path):
    prompts = Prompts(("p", "q", "r"), ("ocr",) * 3, ({},) * 3, (0, 1, 2), (0, 1, 2))
    for save_all in (True, False):
        folder = tmp_path / f"images_{save_all}"
        collector = ImageCollector(num_per_task=1, folder=folder, save_all=save_all)
        collector("ocr", prompts.select([1, 2]), torch.stack([GREEN, BLUE]))  # the first one comes last
        collector("ocr", prompts.select([0]), RED[None])
        saved = {path.name for path in (folder / "ocr").iterdir()}
        assert saved == ({"00000.png", "00001.png", "00002.png"} if save_all else {"00000.png"})
        sheet = collector.save_sheet(tmp_path / "sheet.png", {"ocr": prompts})
        with Image.open(sheet) as picture:
            assert picture.width == 128 + 2 * 8
            assert picture.getpixel((60, 60)) == (255, 0, 0)
    with Image.open(tmp_path / "images_True" / "ocr" / "00001.png") as second:
        assert second.getpixel((0, 0)) == (0, 255, 0)


def test_no_sheet_where_nothing_is_to_be_shown(tmp_path):
    prompts = Prompts(("p",), ("ocr",), ({},), (0,), (0,))
    collector = ImageCollector(num_per_task=0, folder=tmp_path, save_all=False)
    collector("ocr", prompts, RED[None])
    assert collector.save_sheet(tmp_path / "sheet.png", {"ocr": prompts}) is None
    assert not list(tmp_path.iterdir())
