"""How fast a training goes, how much memory it takes and how much it sends."""

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

from diffopd.strategy.gradients import Traffic, traffic

GIB = 1024**3


class Throughput(Callback):
    """Logs the duration of each round, samples per second over all processes, and peak memory.

    Metrics: ``train/time/seconds_per_round``, ``train/time/samples_per_second``,
    ``train/memory/peak_rss_gib`` and, on a GPU, ``train/memory/peak_cuda_gib``. Peaks are of this process
    since it began. Time between rounds (checkpoints, evaluation) is not counted.

    With several processes also ``train/communication/bytes_per_update`` and ``transfers_per_update``: what
    one process hands over for its gradients to be averaged, counted where it is sent, over the steps that its
    optimizers take. It keeps the current round's start and its numbers of samples and steps.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Take the time from ``clock``, in seconds."""
        self._clock = clock
        self._start = 0.0
        self._num_samples = 0
        self._num_updates = 0
        self._sent = Traffic()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the optimizers' steps from here on."""

        def note(*_: Any) -> None:
            self._num_updates += 1

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(note)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watch."""
        self._start = self._clock()
        self._num_samples = self._num_updates = 0
        self._sent = traffic()

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
        if trainer.world_size > 1 and self._num_updates:
            sent = traffic()
            per_update = 1 / self._num_updates
            metrics["train/communication/bytes_per_update"] = per_update * (
                sent.num_bytes - self._sent.num_bytes
            )
            metrics["train/communication/transfers_per_update"] = per_update * (
                sent.transfers - self._sent.transfers
            )
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
