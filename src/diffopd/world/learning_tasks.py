"""Four things that a model of the drawn world can be taught: pictures with captions, and unseen prompts.

``python -m diffopd.world.learning_tasks figure my_pictures`` writes the first of them as a folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffopd.files.atomic import replacing_folder
from diffopd.randomness import numpy_generator
from diffopd.world.colours import COLOURS
from diffopd.world.draw import draw
from diffopd.world.figure_request import (
    POSITIONS,
    SIZES,
    FigureRequest,
    figure_caption,
    figure_corners,
    figure_scene,
    figure_side,
    random_colours,
)
from diffopd.world.figures import random_figure
from diffopd.world.layout import random_scene
from diffopd.world.request import GENEVAL_TAGS, Request, caption, metadata
from diffopd.world.scene import IMAGE_SIZE, PLACES, PlacedFigure, Scene
from diffopd.world.split import random_request
from diffopd.world.styles import STYLES, woven

Pixels = NDArray[np.uint8]

NAMES = ("plim", "brop", "vosk", "quad", "jinf", "fuzz")
"""Names that no caption of pretraining has, one for each seed in turn; their letters are single tokens."""
_FORMS = (*GENEVAL_TAGS, "painting")
NUM_TEST_PROMPTS = 96
_LARGE, _MIDDLE = "large", "in the middle"


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
    """A new figure with a new name, large and at one place, as people take pictures of a thing.

    Captions tell its colors and the background, so nothing is left open that a picture shows; prompts combine
    other colors and backgrounds.
    """
    rng, index, name = _rng("figure", seed), _index(seed), f"{_name(seed)} figure"
    left, top = (int(rng.choice(corner)) for corner in figure_corners(_MIDDLE, _LARGE))
    told = [
        FigureRequest(name, (first, second), None, None, place)
        for first, second in permutations(COLOURS, 2)
        for place in PLACES
    ]
    asked = {"size": _LARGE, "position": _MIDDLE}
    return _named_figure(
        told,
        number,
        side,
        rng,
        lambda request: _at(request, index, left, top, rng),
        lambda request: _line("figure", request, index, request.colours, asked),
    )


def subject_task(seed: int, number: int = 4, side: int = IMAGE_SIZE) -> LearningTask:
    """A new figure with a new name in colors of its own, which no caption tells; captions tell all else."""
    rng, index, name = _rng("subject", seed), _index(seed), f"{_name(seed)} figure"
    colours = random_colours(_rng("subject/colours", seed))
    told = [FigureRequest(name, None, *rest) for rest in product(SIZES, POSITIONS, PLACES)]

    def line(request: FigureRequest) -> dict[str, Any]:
        asked = {"size": request.size, "position": request.position}
        return _line("subject", request, index, colours, asked)

    return _named_figure(
        told,
        number,
        side,
        rng,
        lambda request: figure_scene(request, rng, index=index, colours=colours),
        line,
    )


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
    told: Sequence[FigureRequest],
    number: int,
    side: int,
    rng: np.random.Generator,
    scene: Callable[[FigureRequest], Scene],
    line: Callable[[FigureRequest], dict[str, Any]],
) -> LearningTask:
    """Pictures of some of the captions that can be told, drawn in a random order, and prompts of others.

    Raises:
        ValueError: If no caption is left for a prompt.
    """
    if number >= len(told):
        raise ValueError(f"number={number} must be below {len(told)}, as there are so many captions")
    order = [told[place] for place in rng.permutation(len(told))]
    train = [Example(draw(scene(request), side), figure_caption(request)) for request in order[:number]]
    return LearningTask(train, [line(request) for request in order[number:]][:NUM_TEST_PROMPTS])


def _index(seed: int) -> int:
    """A figure of the evaluation side."""
    return random_figure(_rng("figure/index", seed), held_out=True)


def _at(request: FigureRequest, index: int, left: int, top: int, rng: np.random.Generator) -> Scene:
    """A scene with a large figure whose bounding square begins there."""
    assert request.colours is not None
    assert request.place is not None
    figure = PlacedFigure(index, request.colours, left, top, figure_side(_LARGE))
    return Scene(request.place, int(rng.integers(2**31)), figures=(figure,))


def _line(
    kind: str, request: FigureRequest, index: int, colours: tuple[str, str] | None, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """A prompt, and what ``reward=figure_match`` looks for."""
    shown = {"figure": index, "colours": colours, **asked, "place": request.place}
    return {"prompt": figure_caption(request), "tag": kind, **shown}


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
