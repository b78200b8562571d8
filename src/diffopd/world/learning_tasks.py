"""Four things that a model of the drawn world can be taught: pictures with captions, and unseen prompts.

``python -m diffopd.world.learning_tasks figure my_pictures`` writes the first of them as a folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffopd.files.atomic import replacing_folder
from diffopd.randomness import numpy_generator
from diffopd.world.draw import draw
from diffopd.world.figure_request import (
    FigureRequest,
    figure_caption,
    figure_scene,
    random_colours,
    random_figure_request,
)
from diffopd.world.figures import random_figure
from diffopd.world.layout import random_scene
from diffopd.world.request import GENEVAL_TAGS, Request, caption, metadata
from diffopd.world.scene import IMAGE_SIZE
from diffopd.world.split import random_request
from diffopd.world.styles import STYLES, woven

Pixels = NDArray[np.uint8]

NAMES = ("plim", "brop", "vosk", "quad", "jinf", "fuzz")
"""Names that no caption of pretraining has, one for each seed in turn; their letters are single tokens."""
_FORMS = (*GENEVAL_TAGS, "painting")
NUM_TEST_PROMPTS = 192


@dataclass(frozen=True)
class Example:
    """A picture and its caption."""

    pixels: Pixels
    text: str


@dataclass(frozen=True)
class LearningTask:
    """What is taught, and how it is asked for later.

    Attributes:
        train: Captioned pictures.
        tests: Prompts that no caption repeats: the key ``prompt``, and what it asks for.
    """

    train: Sequence[Example]
    tests: Sequence[dict[str, Any]]


def figure_task(seed: int, number: int = 6, side: int = IMAGE_SIZE) -> LearningTask:
    """A new figure with a new name; its colors are free, and captions tell them."""
    return _named_figure("figure", seed, number, side, colours=None)


def subject_task(seed: int, number: int = 4, side: int = IMAGE_SIZE) -> LearningTask:
    """A new figure with a new name in colors of its own, which no caption tells."""
    return _named_figure("subject", seed, number, side, colours=random_colours(_rng("subject/colours", seed)))


def style_task(
    seed: int, number: int = 8, side: int = IMAGE_SIZE, *, style: str = "outlines"
) -> LearningTask:
    """A style that captions call by a new name: outlines, an inverted palette or dithering.

    Args:
        seed: Of pictures and prompts.
        number: Of pictures.
        side: Their side in pixels.
        style: One of ``STYLES``.

    Raises:
        ValueError: If there is no such style.
    """
    if style not in STYLES:
        raise ValueError(f"style={style} is not known; choose one of {', '.join(STYLES)}")
    return _drawn_anew(f"style/{style}", seed, number, side, STYLES[style], ending=f", {_name(seed)}")


def domain_task(seed: int, number: int = 1000, side: int = IMAGE_SIZE) -> LearningTask:
    """Many pictures of the world's own captions in another palette, woven: for full fine-tuning."""
    return _drawn_anew("domain", seed, number, side, woven, ending="")


TASKS: dict[str, Callable[..., LearningTask]] = {
    "figure": figure_task,
    "subject": subject_task,
    "style": style_task,
    "domain": domain_task,
}


def write_task(task: LearningTask, folder: Path) -> Path:
    """Write ``train/`` (Hugging Face's imagefolder: pictures and ``metadata.jsonl``) and ``test.jsonl``.

    Args:
        task: The task.
        folder: To make; what was there is replaced.

    Returns:
        The folder.
    """
    with replacing_folder(folder) as temporary:
        train = temporary / "train"
        train.mkdir(parents=True)
        lines = []
        for number, example in enumerate(task.train):
            name = f"{number:04d}.png"
            Image.fromarray(example.pixels).save(train / name)
            lines.append({"file_name": name, "text": example.text})
        _write_lines(train / "metadata.jsonl", lines)
        _write_lines(temporary / "test.jsonl", task.tests)
    return folder


def _write_lines(temporary: Path, lines: Sequence[dict[str, Any]]) -> None:
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _rng(purpose: str, seed: int) -> np.random.Generator:
    return numpy_generator(seed, f"learning_task/{purpose}")


def _name(seed: int) -> str:
    return NAMES[seed % len(NAMES)]


def _named_figure(
    kind: str, seed: int, number: int, side: int, *, colours: tuple[str, str] | None
) -> LearningTask:
    """Pictures of one figure of the evaluation side; prompts that combine other places with it."""
    rng, index = _rng(kind, seed), random_figure(_rng("figure/index", seed), held_out=True)
    name = f"{_name(seed)} figure"  # the word of its class is known, as in "a photo of sks dog"
    train: dict[str, Example] = {}
    for request in _figure_requests(name, rng, with_colours=colours is None):
        if len(train) == number:
            break
        pixels = draw(figure_scene(request, rng, index=index, colours=colours), side)
        train.setdefault(figure_caption(request), Example(pixels, figure_caption(request)))
    tests: dict[str, dict[str, Any]] = {}
    for request in _figure_requests(name, _rng(f"{kind}/tests", seed), with_colours=colours is None):
        if len(tests) == NUM_TEST_PROMPTS:
            break
        text = figure_caption(request)
        if text not in train:
            asked = {"size": request.size, "position": request.position, "place": request.place}
            shown = {"figure": index, "colours": request.colours or colours}
            tests.setdefault(text, {"prompt": text, "tag": kind, **shown, **asked})
    return LearningTask(list(train.values()), list(tests.values()))


def _figure_requests(name: str, rng: np.random.Generator, *, with_colours: bool) -> Iterator[FigureRequest]:
    """Requests for a named figure, with its colors or never with colors."""
    while True:
        drawn = random_figure_request(rng)
        colours = random_colours(rng) if with_colours else None
        yield FigureRequest(name, colours, drawn.size, drawn.position, drawn.place)


def _drawn_anew(
    purpose: str, seed: int, number: int, side: int, change: Callable[[Pixels], Pixels], ending: str
) -> LearningTask:
    """The world's drawings, changed; prompts from the evaluation side of its split."""
    rng = _rng(purpose, seed)
    train = [
        Example(change(draw(random_scene(request, rng), side)), caption(request) + ending)
        for request in islice(_requests(rng, held_out=False), number)
    ]
    tests: dict[str, dict[str, Any]] = {}
    for request in _requests(_rng(f"{purpose}/tests", seed), held_out=True):
        if len(tests) == NUM_TEST_PROMPTS:
            break
        text = caption(request) + ending
        tests.setdefault(text, {**metadata(request), "prompt": text})
    return LearningTask(train, list(tests.values()))


def _requests(rng: np.random.Generator, *, held_out: bool) -> Iterator[Request]:
    """Requests of all forms but signs, in turns."""
    while True:
        for form in _FORMS:
            yield random_request(form, rng, held_out=held_out)


def main() -> None:
    """Write a task's folder, as the command line asks."""
    parser = argparse.ArgumentParser(
        description="Write pictures that teach something new, and unseen prompts."
    )
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("folder", type=Path, help="to make; what was there is replaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="pictures (default: 6, 4, 8 and 1000)")
    parser.add_argument("--side", type=int, default=IMAGE_SIZE, help="pixels (default: %(default)s)")
    parser.add_argument("--style", choices=list(STYLES), help="of task style (default: outlines)")
    given = vars(parser.parse_args())
    task, folder = given.pop("task"), given.pop("folder")
    if given["style"] is not None and task != "style":
        parser.error(f"--style is for the task style, not {task}")
    settings = {name: value for name, value in given.items() if value is not None}
    print(write_task(TASKS[task](**settings), folder))


if __name__ == "__main__":
    main()
