"""The images of an evaluation on disk: each by itself, and the first of each task on one sheet."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.files.grid import image_sheet
from diffopd.files.png import read_png, save_png
from diffopd.types import Prompts


class ImageCollector:
    """Takes the batches of an evaluation, from any number of processes, and saves images as PNG files.

    Attributes:
        folder: Gets ``<task>/<index>.png``.
        num_per_task: Images of each task on the sheet.
        save_all: Whether every image is saved, or those of the sheet alone.
    """

    def __init__(self, *, num_per_task: int, folder: Path, save_all: bool) -> None:
        self.num_per_task = num_per_task
        self.folder = folder
        self.save_all = save_all

    def __call__(self, task: str, prompts: Prompts, images: Float[Tensor, " batch 3 height width"]) -> None:
        """Take a batch."""
        for index, image in zip(prompts.indices, images, strict=True):
            if self.save_all or index < self.num_per_task:
                save_png(image, self._place(task, index))

    def save_sheet(self, path: str | PathLike[str], prompts: Mapping[str, Prompts]) -> Path | None:
        """Write the first images of each task with their prompts as one PNG.

        Args:
            path: The PNG to write.
            prompts: Task -> all its prompts.

        Returns:
            ``path``, or None if no images are to be shown.
        """
        shown = [
            (self._place(task, index), text)
            for task, rows in prompts.items()
            for index, text in list(zip(rows.indices, rows.texts, strict=True))[: self.num_per_task]
        ]
        if not shown:
            return None
        images = [read_png(place) for place, _ in shown]
        texts = [text for _, text in shown]
        return save_png(image_sheet(torch.stack(images), texts, num_columns=self.num_per_task), path)

    def _place(self, task: str, index: int) -> Path:
        return self.folder / task / f"{index:05d}.png"
