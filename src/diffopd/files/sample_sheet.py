"""Models side by side on a few prompts: one PNG that knows its models, prompts and scores."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffopd.files.grid import cells_of, sample_grid
from diffopd.files.png import from_picture, save_png

SHEET = "samples.png"
"""Name of the file in a run's report."""
_NOTE = "diffopd.sheet"
"""Name of the PNG's text."""
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 36), (120, 120, 128)
_SIDE, _GAP, _BETWEEN, _LABELS, _HEADER, _SCORE = 96, 6, 18, 112, 108, 14
"""Of a strip, in pixels: image, gap, gap between tasks, names of models, prompts, line of scores."""


@dataclass(frozen=True, kw_only=True)
class SampleSheet:
    """Images of several models on the same prompts and noise.

    Attributes:
        columns: The models.
        prompts: Task and text of each row.
        scores: Per row, each image's score on the row's task; None where it is not known.
        rule: How the prompts were chosen, in a sentence or two.
        images: Per row, one image per column, as they are to be shown.
    """

    columns: Sequence[str]
    prompts: Sequence[tuple[str, str]]
    scores: Sequence[Sequence[float | None]]
    rule: str
    images: Sequence[Sequence[Image.Image]]

    def picture(self) -> Image.Image:
        """A row per prompt, a column per model, each image's score under it."""
        return sample_grid(
            [[from_picture(image) for image in row] for row in self.images],
            columns=self.columns,
            rows=self.prompts,
            scores=[[score_text(score) for score in row] for row in self.scores],
        )

    def strip(self) -> Image.Image:
        """A row per model, a column per prompt: wider than high, for a first screen."""
        places = _strip_places([task for task, _ in self.prompts])
        step = _SIDE + _SCORE + _GAP
        sheet = Image.new("RGB", (places[-1] + _SIDE + _GAP, _HEADER + len(self.columns) * step), _PAPER)
        pen = ImageDraw.Draw(sheet)
        font, small, tiny = (ImageFont.load_default(size) for size in (15, 12, 11))
        for row, name in enumerate(self.columns):
            middle = _HEADER + row * step + _SIDE / 2
            pen.multiline_text((_GAP, middle), name, font=font, fill=_INK, anchor="lm", spacing=2)
        for number, (x, (task, text)) in enumerate(zip(places, self.prompts, strict=True)):
            if number == 0 or task != self.prompts[number - 1][0]:
                pen.text((x, _GAP), task, font=font, fill=_INK)
            words = "\n".join(textwrap.wrap(text, 16, max_lines=5, placeholder="..."))
            pen.multiline_text((x, _HEADER - _GAP), words, font=small, fill=_FAINT, anchor="ld", spacing=2)
            for row, (image, score) in enumerate(zip(self.images[number], self.scores[number], strict=True)):
                top = _HEADER + row * step
                sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, top))
                pen.text(
                    (x + _SIDE / 2, top + _SIDE + 1), score_text(score), font=tiny, fill=_FAINT, anchor="ma"
                )
        return sheet

    def save(self, path: Path) -> Path:
        """Write the picture with what it shows, whole or not at all."""
        note = {"columns": self.columns, "prompts": self.prompts, "scores": self.scores, "rule": self.rule}
        return save_png(self.picture(), path, {_NOTE: json.dumps(note)})


def read_sheet(path: Path) -> SampleSheet:
    """Read what :meth:`SampleSheet.save` wrote; images as they are shown in it.

    Raises:
        OSError: If the file is absent or damaged.
        ValueError: If it is a picture of something else, or of an earlier version.
    """
    try:
        with Image.open(path) as opened:
            opened.load()  # compares all check sums
            note, picture = json.loads(getattr(opened, "text", {})[_NOTE]), opened.convert("RGB")
        columns, prompts = tuple(note["columns"]), tuple((task, text) for task, text in note["prompts"])
        return SampleSheet(
            columns=columns,
            prompts=prompts,
            scores=tuple(tuple(row) for row in note["scores"]),
            rule=str(note["rule"]),
            images=cells_of(picture, columns=columns, num_rows=len(prompts), with_scores=True),
        )
    except SyntaxError as error:  # what Pillow raises for a damaged PNG
        raise OSError(f"{path} is damaged: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what it shows ({error!r}); run the report again") from error


def score_text(score: float | None) -> str:
    """A score as it stands under an image: two decimals, nothing where it is not known.

    Examples:
        >>> score_text(0.5), score_text(-0.004), score_text(None)
        ('0.50', '0.00', '')
    """
    return "" if score is None else f"{round(score, 2) + 0.0:.2f}"


def _strip_places(tasks: Sequence[str]) -> list[int]:
    """Left edge of each column of a strip; a wider gap where the task changes."""
    places, x = [], _LABELS
    for number, task in enumerate(tasks):
        x += _BETWEEN if number and task != tasks[number - 1] else 0
        places.append(x)
        x += _SIDE + _GAP
    return places
