"""Captioned drawings of the world, drawn on demand from their index."""

from __future__ import annotations

from dataclasses import dataclass

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffopd.randomness import numpy_generator
from diffopd.world.draw import draw
from diffopd.world.layout import random_scene
from diffopd.world.request import Request, caption
from diffopd.world.split import random_training_request


@dataclass(frozen=True)
class Drawing:
    """One training picture: 8-bit RGB pixels and the request it satisfies."""

    pixels: np.ndarray
    request: Request

    @property
    def text(self) -> str:
        """The caption."""
        return caption(self.request)


def training_drawing(seed: int, index: int, sign_share: float, *, side: int) -> Drawing:
    """The drawing with this index: the same whenever and wherever it is asked for.

    Args:
        seed: Of all drawings.
        index: Which one.
        sign_share: Share of signs among all, in [0, 1].
        side: Its side in pixels.
    """
    rng = numpy_generator(seed, "drawing", index)
    request = random_training_request(rng, sign_share)
    return Drawing(draw(random_scene(request, rng), side), request)


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
        round_index, rank, processes = 0, 0, 1
        if self.trainer is not None:
            round_index, rank = self.trainer.current_epoch, self.trainer.global_rank
            processes = self.trainer.world_size
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
