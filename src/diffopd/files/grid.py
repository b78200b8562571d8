"""Grids of images for people to look at, small images enlarged pixel by pixel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffopd.files.png import to_picture

_GAP = 8
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 36), (120, 120, 128)
_CELL = 128
"""Least side of an enlarged image in pixels."""
_LABEL_LINES, _LINE = 3, 17
"""Of the prompt below each image of a sheet; the height of one in pixels."""


def sample_grid(
    images: Sequence[Sequence[Float[Tensor, " 3 height width"]]],
    *,
    columns: Sequence[str],
    rows: Sequence[tuple[str, str]],
) -> Image.Image:
    """A row per prompt, a column per model.

    Args:
        images: For each row, one image in [0, 1] per column.
        columns: Headers, e.g. ``("base", "teacher", "student")``.
        rows: For each row, the prompt's task and text.

    Raises:
        ValueError: If the labels do not match the images.
    """
    if len(images) != len(rows) or any(len(row) != len(columns) for row in images):
        raise ValueError(
            f"a grid needs one label per row and column, got rows of {[len(row) for row in images]} images "
            f"for {len(rows)} row labels and {len(columns)} headers"
        )
    scaled = [[_enlarged(image) for image in row] for row in images]
    side_x, side_y = scaled[0][0].size
    font, small = (ImageFont.load_default(size) for size in (17, 14))
    label_width, header = 240, 36 + 20 * max(name.count("\n") for name in columns)
    width = label_width + len(columns) * (side_x + _GAP) + _GAP
    sheet = Image.new("RGB", (width, header + len(rows) * (side_y + _GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        centre = label_width + column * (side_x + _GAP) + side_x / 2
        pen.text((centre, header / 2), name, font=font, fill=_INK, anchor="mm", align="center")
    for row, (task, text) in enumerate(rows):
        top = header + row * (side_y + _GAP)
        pen.text((12, top + 8), task, font=small, fill=_FAINT)
        pen.multiline_text(
            (12, top + 30), _wrapped(text, (side_y - 36) // 22), font=font, fill=_INK, spacing=4
        )
        for column, picture in enumerate(scaled[row]):
            sheet.paste(picture, (label_width + column * (side_x + _GAP), top))
    return sheet


def image_sheet(
    images: Float[Tensor, " batch 3 height width"], labels: Sequence[str], *, num_columns: int = 6
) -> Image.Image:
    """Images in reading order, each with its prompt below.

    Args:
        images: In [0, 1].
        labels: One per image.
        num_columns: Images in a row.

    Raises:
        ValueError: If there is not one label per image.
    """
    if not len(images) or len(images) != len(labels) or num_columns < 1:
        raise ValueError(
            f"a sheet needs images, a label for each and at least one column, got {len(images)} images, "
            f"{len(labels)} labels, num_columns={num_columns}"
        )
    scaled = [_enlarged(image) for image in images]
    side_x, side_y = scaled[0].size
    font = ImageFont.load_default(13)
    height = side_y + _LINE * _LABEL_LINES + _GAP
    num_columns = min(num_columns, len(scaled))
    num_rows = -(-len(scaled) // num_columns)
    sheet = Image.new(
        "RGB", (num_columns * (side_x + _GAP) + _GAP, num_rows * (height + _GAP) + _GAP), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for place, (picture, label) in enumerate(zip(scaled, labels, strict=True)):
        row, column = divmod(place, num_columns)
        left, top = _GAP + column * (side_x + _GAP), _GAP + row * (height + _GAP)
        sheet.paste(picture, (left, top))
        text = _wrapped(label, _LABEL_LINES, side_x // 7)
        pen.multiline_text((left, top + side_y + 3), text, font=font, fill=_INK, spacing=2)
    return sheet


def cut_row(sheet: Image.Image, num_images: int) -> list[Image.Image]:
    """The images of a sheet that :func:`image_sheet` made of a single row, as they are shown there.

    Args:
        sheet: The sheet.
        num_images: How many it holds.

    Raises:
        ValueError: If the picture has not the shape of such a sheet.
    """
    side_x, rest = divmod(sheet.width - _GAP, num_images)
    side_x, side_y = side_x - _GAP, sheet.height - _LINE * _LABEL_LINES - 3 * _GAP
    if rest or side_x < 1 or side_y < 1:
        raise ValueError(
            f"a picture of {sheet.width} x {sheet.height} pixels is no row of {num_images} images and prompts"
        )
    lefts = [_GAP + place * (side_x + _GAP) for place in range(num_images)]
    return [sheet.crop((left, _GAP, left + side_x, _GAP + side_y)) for left in lefts]


def _enlarged(image: Tensor) -> Image.Image:
    """By a whole factor up to ``_CELL``; large images shrink to twice that."""
    picture = to_picture(image)
    factor = -(-_CELL // min(picture.size))
    if factor > 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((2 * _CELL, 2 * _CELL), Image.Resampling.LANCZOS)
    return picture


def _wrapped(text: str, max_lines: int, characters: int = 25) -> str:
    lines = textwrap.wrap(text, characters)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1][: characters - 3] + "..."]
    return "\n".join(lines)
