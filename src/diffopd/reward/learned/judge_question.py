"""What a vision-language model is asked about a drawn picture and the taught ones, whoever answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from diffopd.files.paths import resolve_path
from diffopd.files.picture import SUFFIXES, picture_size, read_picture
from diffopd.files.png import to_picture
from diffopd.reward.checked import Sample
from diffopd.reward.learned.vision_server import Content
from diffopd.types import Picture, Prompts

WHY_NO_PAIR = "its pictures are your own"
"""Why a judge has no good and bad image to be checked with."""


class JudgeQuestion:
    """The taught pictures, then the picture itself, and one question with the labels that answer it.

    Args:
        question: What is asked; ``{prompt}`` stands for the prompt.
        reply: How to reply, after the question. ``{labels}`` stands for the labels, in one of the two.
        labels: Label -> mark.
        path: Folder of taught pictures, whose first ones are shown; None = each prompt's own picture.
        num_pictures: How many of the folder are shown.
        image_size: Pixels of each side of the squares that are shown.

    Attributes:
        marks: Label -> mark, in the order in which the labels are named.

    Raises:
        ValueError: If a setting is not what it should be, or there are no pictures.
    """

    def __init__(
        self,
        *,
        question: str,
        reply: str,
        labels: Mapping[str, float],
        path: str | None,
        num_pictures: int,
        image_size: int,
    ) -> None:
        self.marks = _checked_marks(labels)
        self._text = f"{question} {reply}"
        if "{labels}" not in self._text:
            raise ValueError(
                "reward.reply (or reward.question) must hold {labels}, where the labels go, got reward.reply="
                f"{reply!r} and reward.question={question!r}"
            )
        if image_size < 1 or num_pictures < 1:
            raise ValueError(
                f"reward.image_size={image_size} and reward.num_pictures={num_pictures} must be at least 1"
            )
        self.image_size = image_size
        self._taught = None if path is None else _first_pictures(path, num_pictures)

    @property
    def range(self) -> str:
        """Lowest and highest mark, as a description of scores begins."""
        return f"[{min(self.marks.values()):g}, {max(self.marks.values()):g}]"

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt without a picture where there is no folder.

        Raises:
            ValueError: If it has none.
        """
        if self._taught is None and prompt.targets[0] is None:
            raise ValueError(
                f"the prompt {prompt.texts[0]!r} has no picture to compare with; name the folder of taught "
                "pictures with reward.path=..."
            )

    def check_prompts(self, prompts: Prompts) -> None:
        """The same for all rows.

        Raises:
            ValueError: If one has none.
        """
        for row in range(len(prompts)):
            self.check_prompt(prompts.select([row]))

    def content(self, sample: Sample, told: str | None = None) -> Content:
        """What is shown and asked for one sample.

        Args:
            sample: Its image and prompt.
            told: The prompt as the question quotes it; None = as it is.
        """
        taught = self._taught or [picture for picture in sample.prompt.targets if picture is not None]
        side = self.image_size
        pictures = [
            to_picture(read_picture(dataclasses.replace(picture, height=side, width=side)))
            for picture in taught
        ]
        prompt = sample.prompt.texts[0] if told is None else told
        text = self._text.replace("{labels}", ", ".join(self.marks)).replace("{prompt}", prompt)
        return [*pictures, to_picture(sample.image).resize((side, side))], text


def _checked_marks(labels: Mapping[str, float]) -> dict[str, float]:
    """The marks as numbers.

    Raises:
        ValueError: If there are fewer than two labels, one is no text, two are alike, or a mark is no number.
    """
    if len(labels) < 2:
        raise ValueError(f"reward.labels must have at least two labels with their marks, got {dict(labels)}")
    for label, mark in labels.items():
        if not isinstance(label, str) or not label.strip():
            raise ValueError(
                f"reward.labels must be words, got {label!r}; put it in quotes if it is meant as text"
            )
        if isinstance(mark, bool) or not isinstance(mark, (int, float)) or not math.isfinite(mark):
            raise ValueError(f"reward.labels.{label}={mark} must be a finite number, the label's mark")
    if len({label.lower() for label in labels}) < len(labels):
        raise ValueError(f"reward.labels must differ in more than case, got {', '.join(labels)}")
    return {label: float(mark) for label, mark in labels.items()}


def _first_pictures(path: str, number: int) -> list[Picture]:
    """The first pictures of a folder, by name.

    Raises:
        ValueError: If there are none, or one cannot be read.
    """
    folder = Path(resolve_path(path))
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)[:number]
    if not files:
        raise ValueError(
            f"reward.path={path}: {folder.absolute()} holds no pictures ({', '.join(SUFFIXES)}); give the "
            "folder of the pictures that were taught"
        )
    return [Picture(str(file), "", *picture_size(file)) for file in files]
