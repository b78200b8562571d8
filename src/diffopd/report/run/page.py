"""One run as one HTML page that needs nothing else: table, curves, pictures, what it took."""

from __future__ import annotations

import base64
import importlib.resources
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from diffopd.files.atomic import replacing
from diffopd.files.sample_sheet import SampleSheet, score_text
from diffopd.report.run.held_out import TITLE
from diffopd.report.run.table import FinalTable

PAGE = "index.html"
_TEMPLATE = "page.html.jinja"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure.

    Attributes:
        caption: What it shows, for readers who do not see it.
        data: A data URI.
    """

    caption: str
    data: str

    @staticmethod
    def of_svg(svg: str, caption: str) -> Plot:
        """A figure that follows the reader's light or dark mode by itself."""
        return Plot(caption=caption, data=_uri("image/svg+xml", svg.encode()))

    @staticmethod
    def of_png(path: Path, caption: str) -> Plot:
        """A figure from a PNG."""
        return Plot(caption=caption, data=_uri("image/png", path.read_bytes()))


@dataclass(frozen=True, kw_only=True)
class PageRow:
    """A prompt and its images.

    Attributes:
        task: Of the prompt.
        text: The prompt.
        cells: Data URI and score of each image; the score is empty where it is not known.
    """

    task: str
    text: str
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images of several models, or of one at several rounds.

    Attributes:
        heading: Of the section.
        caption: What is shown, and how it was chosen.
        columns: Headers.
        rows: The prompts with their images.
    """

    heading: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[PageRow]

    @staticmethod
    def of(sheet: SampleSheet, *, heading: str, caption: str) -> Pictures:
        """Embed a sheet's images."""
        rows = [
            PageRow(
                task=task,
                text=text,
                cells=[
                    (_png_uri(image), score_text(score)) for image, score in zip(images, scores, strict=True)
                ],
            )
            for (task, text), images, scores in zip(sheet.prompts, sheet.images, sheet.scores, strict=True)
        ]
        columns = [" ".join(name.split()) for name in sheet.columns]
        return Pictures(heading=heading, caption=caption, columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table.

    Attributes:
        heading: Of its section.
        header: Of its columns.
        lines: Its rows, the first cell of each its name.
        note: What its numbers are.
        own: How the names of the rows begin that the page is about; empty for none.
    """

    heading: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str
    own: str = ""

    @staticmethod
    def of(table: FinalTable, *, own: str, heading: str = "Scores") -> list[PageTable]:
        """A run's scores, and below them what nothing is trained on if a row has any of it."""
        scores = PageTable(
            heading=heading,
            header=["", "guidance", *table.tasks],
            lines=table.lines(),
            note=f"{table.full_title}: {table.reading}.",
            own=own,
        )
        if (held_out := table.held_out()) is None:
            return [scores]
        return [
            scores,
            PageTable(
                heading=f"{heading} {TITLE.lower()}",
                header=held_out.header,
                lines=held_out.lines,
                note=f"{held_out.reading}.",
                own=own,
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What a run's page holds.

    Attributes:
        title: Name of the run.
        lead: What was done and what came out, one sentence a paragraph.
        tables: The tables.
        plots: The figures.
        plots_heading: Of their section.
        plots_note: What they show.
        pictures: The sections of images.
        minutes: What was done -> minutes it took.
        command: That made the run.
        commit: Of the code.
        seed: Of the run.
    """

    title: str
    lead: Sequence[str]
    tables: Sequence[PageTable]
    plots: Sequence[Plot]
    plots_heading: str
    plots_note: str
    pictures: Sequence[Pictures]
    minutes: Mapping[str, float]
    command: str
    commit: str
    seed: int

    def write(self, folder: Path) -> Path:
        """Write ``index.html``, whole or not at all."""
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = importlib.resources.files("diffopd.report.run").joinpath(_TEMPLATE)
        text = environment.from_string(template.read_text(encoding="utf-8")).render(
            page=self, minutes=minutes_sentence(self.minutes)
        )
        with replacing(folder / PAGE) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return folder / PAGE


def minutes_sentence(minutes: Mapping[str, float]) -> str:
    """Minutes of each part and of all.

    Examples:
        >>> minutes_sentence({"training": 4.04, "scoring": 1.5, "pictures and page": 0.25})
        '4.0 training, 1.5 scoring, 0.2 pictures and page; 5.8 in all'
    """
    parts = ", ".join(f"{value:.1f} {name}" for name, value in minutes.items())
    return parts if len(minutes) == 1 else f"{parts}; {sum(minutes.values()):.1f} in all"


def print_end(page: Path, minutes: Mapping[str, float]) -> None:
    """The last lines of a run: how long it took, and what to open."""
    print(f"{'minutes:':<14} {minutes_sentence(minutes)}")
    print(f"open {shown_path(page)}", flush=True)


def shown_path(path: Path) -> str:
    """From the working directory, where the file is below it."""
    whole = path.absolute()
    here = Path(os.getcwd())
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)


def _png_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
