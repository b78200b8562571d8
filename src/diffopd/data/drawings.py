"""Captioned drawings of the world, drawn on demand from their index."""

from __future__ import annotations

from dataclasses import dataclass

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffopd.data.rounds import round_in_progress
from diffopd.randomness import numpy_generator
from diffopd.world.draw import draw
from diffopd.world.figure_request import FigureRequest, figure_caption, figure_scene, random_figure_request
from diffopd.world.figures import random_figure
from diffopd.world.layout import random_scene
from diffopd.world.request import Request, caption
from diffopd.world.split import random_training_request
from diffopd.world.styles import STYLES, woven


@dataclass(frozen=True)
class Drawing:
    """One training picture: 8-bit RGB pixels and the request it satisfies."""

    pixels: np.ndarray
    request: Request | FigureRequest

    @property
    def text(self) -> str:
        """The caption."""
        if isinstance(self.request, FigureRequest):
            return figure_caption(self.request)
        return caption(self.request)


def training_drawing(
    seed: int, index: int, sign_share: float, *, side: int, figure_share: float = 0.0
) -> Drawing:
    """The drawing with this index: the same whenever and wherever it is asked for.

    Args:
        seed: Of all drawings.
        index: Which one.
        sign_share: Share of signs among those without a figure, in [0, 1].
        side: Its side in pixels.
        figure_share: Share of random figures among all, in [0, 1].
    """
    if shows_figure(seed, index, figure_share):
        return figure_drawing(seed, index, side=side)
    rng = numpy_generator(seed, "drawing", index)
    request = random_training_request(rng, sign_share)
    return Drawing(draw(random_scene(request, rng), side), request)


def shows_figure(seed: int, index: int, figure_share: float) -> bool:
    """Whether the drawing with this index shows a random figure."""
    return figure_share > 0 and numpy_generator(seed, "drawing/figure", index).random() < figure_share


def restyled(seed: int, index: int, pixels: np.ndarray, share: float) -> np.ndarray:
    """A share of the drawings in one of the styles that the world itself does not have, by chance.

    Args:
        seed: Of all drawings.
        index: Which one.
        pixels: The drawing, 8-bit RGB of shape (height, width, 3).
        share: How many are restyled, in [0, 1].
    """
    if not share:
        return pixels
    rng = numpy_generator(seed, "drawing/style", index)
    styles = (*STYLES.values(), woven)
    return styles[rng.integers(len(styles))](pixels) if rng.random() < share else pixels


def figure_drawing(
    seed: int,
    index: int,
    *,
    side: int,
    again: bool = False,
    held_out: bool = False,
    figure: int | None = None,
) -> Drawing:
    """One of two drawings of a random figure, which have its colors in common and all else by chance.

    Args:
        seed: Of all drawings.
        index: Which two.
        side: Their side in pixels.
        again: The second of them. Its caption says "the same figure": that of the first, its reference.
        held_out: Take a figure from the evaluation side.
        figure: Index of the figure; None = a random one.
    """
    rng = numpy_generator(seed, "drawing/figures", index)
    chosen = random_figure(rng, held_out) if figure is None else figure
    request = random_figure_request(rng)
    scene = figure_scene(request, rng, index=chosen)
    if again:
        request, colours = random_figure_request(rng, same=True), scene.figures[0].colours
        scene = figure_scene(request, rng, index=chosen, colours=colours)
    return Drawing(draw(scene, side), request)


def to_image_tensor(pixels: np.ndarray) -> Tensor:
    """8-bit pixels ``(..., height, width, 3)`` to floats in [0, 1] of shape ``(..., 3, height, width)``."""
    return torch.from_numpy(pixels).movedim(-1, -3).float() / 255


@dataclass(frozen=True)
class DrawingBatch:
    """One step's drawings, named by their indices.

    Attributes:
        step: Step of the whole training, counted over rounds.
        everyone: Index of each drawing of the step, those of other processes included.
        rows: Which of them are this process's.
    """

    step: int
    everyone: tuple[int, ...]
    rows: range

    @property
    def indices(self) -> tuple[int, ...]:
        """Index of each drawing of this process."""
        return self.everyone[self.rows.start : self.rows.stop]

    def mine(self, values: Tensor) -> Tensor:
        """This process's rows of what is drawn for all."""
        return values[self.rows.start : self.rows.stop]

    def __len__(self) -> int:
        return len(self.rows)


class _Round(Dataset[DrawingBatch]):
    """The batches of one round; item ``i`` is batch ``i`` with its global sample indices."""

    def __init__(
        self,
        seed: int,
        round_index: int,
        num_batches: int,
        batch_size: int,
        num_drawings: int,
        rows: range,
    ) -> None:
        self.seed, self.round_index, self.rows = seed, round_index, rows
        self.num_batches, self.batch_size, self.num_drawings = num_batches, batch_size, num_drawings

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, batch: int) -> DrawingBatch:
        step = self.round_index * self.num_batches + batch
        rng = numpy_generator(self.seed, "drawing/batch", step)
        indices = rng.integers(self.num_drawings, size=self.batch_size).tolist()
        return DrawingBatch(step, tuple(indices), self.rows)


class DrawingData(lightning.LightningDataModule):
    """Batches of drawing indices; the phase keeps the drawings in the form it trains on.

    Args:
        seed: Seed of the drawings and of their order.
        num_drawings: How many different drawings there are.
        batch_size: Drawings in one step.
        batches_per_round: Steps in one round (one Lightning epoch).
    """

    def __init__(self, *, seed: int, num_drawings: int, batch_size: int, batches_per_round: int) -> None:
        super().__init__()
        self.seed, self.num_drawings = seed, num_drawings
        self.batch_size, self.batches_per_round = batch_size, batches_per_round

    def setup(self, stage: str | None = None) -> None:
        """Check that the processes can share a step's drawings.

        Raises:
            ValueError: If they do not divide among the processes.
        """
        if self.trainer is not None and self.batch_size % self.trainer.world_size:
            raise ValueError(
                f"data.batch_size={self.batch_size} must be a multiple of the number of processes, "
                f"{self.trainer.world_size} (trainer.devices times trainer.num_nodes)"
            )

    def train_dataloader(self) -> DataLoader[DrawingBatch]:
        """Loader of the current round, this process's share of each batch."""
        round_index, rank, processes = round_in_progress(self)
        share = self.batch_size // processes
        rows = range(rank * share, (rank + 1) * share)
        data = _Round(
            self.seed, round_index, self.batches_per_round, self.batch_size, self.num_drawings, rows
        )
        return DataLoader(data, batch_size=None, shuffle=False)

    def transfer_batch_to_device(
        self, batch: DrawingBatch, device: torch.device, dataloader_idx: int
    ) -> DrawingBatch:
        """Indices stay where they are."""
        return batch
