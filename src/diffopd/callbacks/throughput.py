"""How fast a training goes and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sized
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

GIB = 1024**3


class Throughput(Callback):
    """Logs the duration of each round, samples per second over all processes, and peak memory.

    Metrics: ``train/time/seconds_per_round``, ``train/time/samples_per_second``,
    ``train/memory/peak_rss_gib`` and, on a GPU, ``train/memory/peak_cuda_gib``. Peaks are of this process
    since it began. Time between rounds (checkpoints, evaluation) is not counted. It keeps the current
    round's start and number of samples.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Take the time from ``clock``, in seconds."""
        self._clock = clock
        self._start = 0.0
        self._num_samples = 0

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watch."""
        self._start = self._clock()
        self._num_samples = 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's samples."""
        self._num_samples += count_samples(batch)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the round: means over processes."""
        seconds = max(self._clock() - self._start, 1e-9)
        metrics = {
            "train/time/seconds_per_round": seconds,
            "train/time/samples_per_second": self._num_samples * trainer.world_size / seconds,
            "train/memory/peak_rss_gib": peak_rss_bytes() / GIB,
        }
        if pl_module.device.type == "cuda":
            metrics["train/memory/peak_cuda_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / GIB
        for name, value in metrics.items():
            pl_module.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)


def count_samples(batch: Any) -> int:
    """Rows of a batch: its length, or that of its first column if it is a list, tuple or dict of columns.

    Raises:
        TypeError: If the batch has no length.
    """
    if isinstance(batch, dict):
        return count_samples(next(iter(batch.values())))
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor | list | tuple):
        return len(batch[0])
    if not isinstance(batch, Sized):
        raise TypeError(
            f"a batch must have a length for its samples to be counted, got {type(batch).__name__}; "
            "give it __len__, or leave the callback out (~callbacks.throughput)"
        )
    return len(batch)


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
