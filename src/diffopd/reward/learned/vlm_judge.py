"""A vision-language model says how much of the taught pictures is in a picture, in one of four labels.

References:
    D-OPSD, 2026, arXiv:2605.05204 (VLM-J: one of four labels, as a mark from 4 to 1). The question is ours.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffopd.files.paths import resolve_path
from diffopd.files.picture import SUFFIXES, picture_size, read_picture
from diffopd.files.png import to_picture
from diffopd.reward.checked import Sample
from diffopd.reward.learned.vision_server import Content, VisionServer
from diffopd.types import Picture, Prompts, Scores


class VlmJudge:
    """The mark of the label that the model answers with; it sees taught pictures, then the picture itself.

    Args:
        address: The server's, up to ``/v1``.
        model: Name under which the server knows the model.
        question: What is asked; ``{prompt}`` stands for the prompt and ``{labels}`` for the labels.
        labels: Label -> mark.
        path: Folder of taught pictures, whose first ones are shown; None = each prompt's own picture.
        num_pictures: How many of the folder are shown.
        image_size: Pixels of each side of the squares that are sent.
        token_variable: Environment variable that holds the server's key; unset = none is sent.
        timeout: Seconds for a whole attempt, until its whole reply is there.
        retries: Attempts after the first, when the server fails or its reply holds no label.
        backoff: Seconds before the second attempt; doubled before each further one, up to a minute.
        concurrency: Questions asked at the same time.
    """

    why_no_pair = "its pictures are your own"

    def __init__(
        self,
        *,
        address: str,
        model: str,
        question: str,
        labels: Mapping[str, float],
        path: str | None,
        num_pictures: int,
        image_size: int,
        token_variable: str,
        timeout: float,
        retries: int,
        backoff: float,
        concurrency: int,
    ) -> None:
        if "{labels}" not in question:
            raise ValueError(f"reward.question must hold {{labels}}, where the labels go, got {question!r}")
        if len(labels) < 2:
            raise ValueError(
                f"reward.labels must have at least two labels with their marks, got {dict(labels)}"
            )
        if concurrency < 1 or image_size < 1 or num_pictures < 1:
            raise ValueError(
                f"reward.concurrency={concurrency}, reward.image_size={image_size} and "
                f"reward.num_pictures={num_pictures} must be at least 1"
            )
        self.labels = {label.lower(): float(mark) for label, mark in labels.items()}
        self.question = question
        self.image_size = image_size
        self.shown = None if path is None else _first_pictures(path, num_pictures)
        self.server = VisionServer(
            reward=type(self).__name__,
            address=address,
            model=model,
            token_variable=token_variable,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            concurrency=concurrency,
            must_say=f"'Answer: <label>', the label one of {', '.join(labels)}",
        )

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Ask for each image's label.

        Raises:
            RewardError: If the server fails, or a reply holds no label, after the last retry.
        """
        for row in range(len(prompts)):
            self.check_prompt(prompts.select([row]))
        samples = [Sample.of(images, prompts, row) for row in range(len(prompts))]
        marks = self.server.marks(samples, self._content, self.parse)
        low, high = min(self.labels.values()), max(self.labels.values())
        return Scores(
            torch.tensor(marks, dtype=torch.float32, device=images.device),
            {},
            f"[{low:g}, {high:g}], mark of the model's label (VLM-J)",
        )

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt without a picture where there is no folder.

        Raises:
            ValueError: If it has none.
        """
        if self.shown is None and prompt.targets[0] is None:
            raise ValueError(
                f"the prompt {prompt.texts[0]!r} has no picture to compare with; name the folder of taught "
                "pictures with reward.path=..."
            )

    def parse(self, reply: str) -> float | None:
        """The mark of the last label in a reply, as its reasoning may quote others; None if there is none."""
        names = "|".join(re.escape(label) for label in sorted(self.labels, key=len, reverse=True))
        found = re.findall(rf"answer:\s*\W?({names})\b", reply.lower())
        return self.labels[found[-1]] if found else None

    def _content(self, sample: Sample) -> Content:
        taught = self.shown or [picture for picture in sample.prompt.targets if picture is not None]
        side = self.image_size
        pictures: list[Image.Image] = [
            to_picture(read_picture(dataclasses.replace(picture, height=side, width=side)))
            for picture in taught
        ]
        labels = ", ".join(self.labels)
        question = self.question.replace("{labels}", labels).replace("{prompt}", sample.prompt.texts[0])
        return [*pictures, to_picture(sample.image).resize((side, side))], question


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
