"""The same prompts and noise for every method, from the images that runs saved (Figures 4 and 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffopd.evaluation import EvaluationResult
from diffopd.files.grid import sample_grid
from diffopd.files.png import read_png, save_png
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run

SHEET = "samples.png"
"""What a distillation leaves in ``report/``: base, teacher and student side by side, by ``sample_grid``."""
_SHEET_COLUMNS = 3
_LABELS, _HEADER, _GAP = 240, 36, 8
"""Geometry of ``sample_grid`` for headers of one line; the tests compare."""


@dataclass(frozen=True, kw_only=True)
class ImageGrid:
    """A picture of methods side by side.

    Attributes:
        path: The PNG.
        caption: What it shows.
    """

    path: Path
    caption: str


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The parts of a ``samples.png``.

    Attributes:
        labels: Tasks and prompts.
        columns: Base, teacher and student.
    """

    labels: Image.Image
    columns: Sequence[Image.Image]


def method_grids(
    methods: Sequence[Method], folder: Path, *, benchmark: str, num_per_task: int
) -> tuple[list[ImageGrid], list[str]]:
    """Draw every grid for which there are images.

    Args:
        methods: In order; of each, the first seed that saved images is shown.
        folder: Gets the PNGs.
        benchmark: Whose images are shown, where runs saved each image.
        num_per_task: Prompts of each task.

    Returns:
        The grids, and the labels of methods of which none shows an image.
    """
    single = {method.label: found for method in methods if (found := _saved(method, benchmark))}
    sheets = {
        method.label: found for method in methods if method.label not in single and (found := _sheet(method))
    }
    grids = []
    for number, alike in enumerate(_same_prompts(single, num_per_task), 1):
        path = folder / f"images_{number}.png"
        grids.append(_grid_of_images(alike, path, benchmark=benchmark, num_per_task=num_per_task))
    for number, names in enumerate(_same_start(sheets), len(grids) + 1):
        path = folder / f"images_{number}.png"
        grids.append(_grid_of_sheets({name: sheets[name] for name in names}, path))
    return grids, [method.label for method in methods if method.label not in single.keys() | sheets.keys()]


def split_sheet(picture: Image.Image) -> Sheet:
    """Take a ``samples.png`` apart.

    Raises:
        ValueError: If the picture has not the shape of one.
    """
    width, height = picture.size
    side, left = divmod(width - _LABELS - _GAP, _SHEET_COLUMNS)
    if left or side <= _GAP or height <= _HEADER:
        raise ValueError(f"a picture of {width} x {height} pixels is not a grid of base, teacher and student")
    return Sheet(
        labels=picture.crop((0, _HEADER, _LABELS, height)),
        columns=[
            picture.crop((start, _HEADER, start + side - _GAP, height))
            for start in range(_LABELS, _LABELS + _SHEET_COLUMNS * side, side)
        ],
    )


def _saved(method: Method, benchmark: str) -> tuple[Run, Path, EvaluationResult] | None:
    """The first seed's single images, at the guidance it was trained for if those are there."""
    for run in method.runs.values():
        found = [
            (run, path.parent / "images", result)
            for path, result in run.results
            if result.benchmark == benchmark and (path.parent / "images").is_dir()
        ]
        own = [entry for entry in found if entry[2].guidance_scale == run.guidance_scale]
        if found:
            return (own or found)[0]
    return None


def _same_prompts(
    found: Mapping[str, tuple[Run, Path, EvaluationResult]], num_per_task: int
) -> list[dict[str, tuple[Run, Path, EvaluationResult]]]:
    """Put together what was drawn from the same prompts and seed."""
    alike: dict[str, dict[str, tuple[Run, Path, EvaluationResult]]] = {}
    for label, entry in found.items():
        result = entry[2]
        texts = {task: scored.texts[:num_per_task] for task, scored in result.tasks.items()}
        alike.setdefault(f"{result.seed} {texts}", {})[label] = entry
    return list(alike.values())


def _grid_of_images(
    shown: Mapping[str, tuple[Run, Path, EvaluationResult]], path: Path, *, benchmark: str, num_per_task: int
) -> ImageGrid:
    result = next(iter(shown.values()))[2]
    prompts = [
        (task, scored.groups.index(number), scored.texts[number])
        for task, scored in result.tasks.items()
        for number in range(min(num_per_task, len(scored.texts)))
    ]
    images = [
        [read_png(folder / task / f"{index:05d}.png") for _, folder, _ in shown.values()]
        for task, index, _ in prompts
    ]
    headers = [_header(label) for label in shown]
    sheet = sample_grid(images, columns=headers, rows=[(task, text) for task, _, text in prompts])
    return ImageGrid(
        path=save_png(sheet, path),
        caption=f"The first prompts of each task of the benchmark {benchmark}; {_shown_seeds(shown)}. "
        "In a row all methods start from the same noise.",
    )


def _sheet(method: Method) -> tuple[Run, Sheet] | None:
    for run in method.runs.values():
        path = run.folder / "report" / SHEET
        if path.is_file():
            with Image.open(path) as picture:
                return run, split_sheet(picture.convert("RGB"))
    return None


def _same_start(sheets: Mapping[str, tuple[Run, Sheet]]) -> list[list[str]]:
    """Put together sheets whose prompts and whose images of the base are the same, pixel for pixel."""
    alike: dict[tuple[bytes, bytes], list[str]] = {}
    for label, (_, sheet) in sheets.items():
        alike.setdefault((sheet.labels.tobytes(), sheet.columns[0].tobytes()), []).append(label)
    return list(alike.values())


def _grid_of_sheets(shown: Mapping[str, tuple[Run, Sheet]], path: Path) -> ImageGrid:
    first = next(iter(shown.values()))[1]
    students = [sheet.columns[-1] for _, sheet in shown.values()]
    headers = ["base", "teacher", *(_header(label) for label in shown)]
    columns = [*first.columns[:-1], *students]
    header = 16 + 20 * max(text.count("\n") + 1 for text in headers)
    width, height = first.columns[0].size
    picture = Image.new(
        "RGB", (_LABELS + len(columns) * (width + _GAP) + _GAP, header + height), (255, 255, 255)
    )
    picture.paste(first.labels, (0, header))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for number, (text, column) in enumerate(zip(headers, columns, strict=True)):
        left = _LABELS + number * (width + _GAP)
        picture.paste(column, (left, header))
        pen.text(
            (left + width / 2, header / 2), text, font=font, fill=(32, 32, 36), anchor="mm", align="center"
        )
    label = next(iter(shown))
    return ImageGrid(
        path=save_png(picture, path),
        caption=f"The first prompts of each task of the runs' benchmark; {_shown_seeds(shown)}. In a row all "
        "images start from the same noise. The base is at its best guidance, the others at the guidance they "
        f"were trained for; a row's teacher is that of its task in {label}.",
    )


def _shown_seeds(shown: Mapping[str, tuple[Run, *tuple[object, ...]]]) -> str:
    seeds = {label: entry[0].seed for label, entry in shown.items()}
    if len(set(seeds.values())) == 1:
        return f"seed {next(iter(seeds.values()))} of each method"
    return "seeds: " + ", ".join(f"{label} {seed}" for label, seed in seeds.items())


def _header(label: str) -> str:
    """A method's label in lines that fit above an image."""
    lines = [""]
    for word in label.replace("_", "_ ").split():
        joined = lines[-1] + ("" if lines[-1].endswith("_") or not lines[-1] else " ") + word
        if len(joined) > 15 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return "\n".join(lines)
