"""The images of an evaluation on disk: each by itself, and the first of each task on one sheet."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.png import save_png
from diffopd.report.grid import image_sheet
from diffopd.types import Prompts


class ImageCollector:
    """Takes the batches of an evaluation: keeps the first images of each task, saves all if given a folder.

    Attributes:
        folder: Gets ``<task>/<index>.png``; None saves none.
    """

    def __init__(self, *, num_per_task: int, folder: Path | None) -> None:
        self.num_per_task = num_per_task
        self.folder = folder
        self._kept: dict[str, list[tuple[str, Tensor]]] = {}

    def __call__(self, task: str, prompts: Prompts, images: Float[Tensor, " batch 3 height width"]) -> None:
        """Take a batch."""
        kept = self._kept.setdefault(task, [])
        kept += zip(prompts.texts, images, strict=True)
        del kept[self.num_per_task :]
        if self.folder is not None:
            for index, image in zip(prompts.indices, images, strict=True):
                save_png(image, self.folder / task / f"{index:05d}.png")

    def save_sheet(self, path: str | PathLike[str]) -> Path:
        """Write the kept images with their prompts as one PNG."""
        kept = [entry for entries in self._kept.values() for entry in entries]
        texts, images = zip(*kept, strict=True)
        return save_png(image_sheet(torch.stack(images), texts, num_columns=self.num_per_task), path)
