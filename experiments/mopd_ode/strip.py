"""The demo's picture on its side, for a first screen: every image of it, models as rows, prompts as columns.

``python experiments/mopd_ode/strip.py`` cuts docs/images/demo_samples.png, which a run's report drew, into
docs/images/demo_strip.png. The prompts are the first of each task's test file, as in the report.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
MODELS = ("base model", "task's teacher", "student")
TASKS = {"composition": "composition", "ocr": "text", "aesthetic": "aesthetics"}
PER_TASK, SIDE, STEP, LEFT, TOP = 3, 128, 136, 240, 36  # of the report's grid, in pixels
SHOWN, GAP, BETWEEN, LABELS, HEADER = 96, 6, 18, 112, 108  # of the strip
PAPER, INK, FAINT = (255, 255, 255), (32, 32, 36), (120, 120, 128)


def cells(grid: Image.Image) -> list[list[Image.Image]]:
    """Images of the report's grid: a list per prompt, one image per model."""
    number = len(TASKS) * PER_TASK
    corners = [[(LEFT + c * STEP, TOP + r * STEP) for c in range(len(MODELS))] for r in range(number)]
    return [[grid.crop((x, y, x + SIDE, y + SIDE)) for x, y in row] for row in corners]


def place(column: int, row: int) -> tuple[int, int]:
    """Left upper corner of an image of the strip."""
    x = LABELS + column * (SHOWN + GAP) + column // PER_TASK * BETWEEN
    return x, HEADER + row * (SHOWN + GAP)


def prompts() -> list[tuple[str, str]]:
    """Task and text of each column."""
    found = []
    for task in TASKS:
        folder = ROOT / "src" / "diffopd" / "assets" / "prompts" / task
        (file,) = folder.glob("test.*")
        lines = file.read_text(encoding="utf-8").splitlines()[:PER_TASK]
        found += [(task, json.loads(line)["prompt"] if file.suffix == ".jsonl" else line) for line in lines]
    return found


def strip(grid: Image.Image) -> Image.Image:
    """The same images, a row per model."""
    columns, labels = cells(grid), prompts()
    x, y = place(len(columns) - 1, len(MODELS) - 1)
    sheet = Image.new("RGB", (x + SHOWN + GAP, y + SHOWN + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for row, model in enumerate(MODELS):
        pen.text((GAP, place(0, row)[1] + SHOWN / 2), model, font=font, fill=INK, anchor="lm")
    for column, ((task, text), images) in enumerate(zip(labels, columns, strict=True)):
        x, top = place(column, 0)
        if column % PER_TASK == 0:
            pen.text((x, GAP), TASKS[task], font=font, fill=INK)
        words = "\n".join(textwrap.wrap(text, 16))
        pen.multiline_text((x, top - GAP), words, font=small, fill=FAINT, anchor="ld", spacing=2)
        for row, image in enumerate(images):
            sheet.paste(image.resize((SHOWN, SHOWN), Image.Resampling.NEAREST), place(column, row))
    return sheet


if __name__ == "__main__":
    with Image.open(IMAGES / "demo_samples.png") as grid:
        strip(grid.convert("RGB")).save(IMAGES / "demo_strip.png", optimize=True)
