"""Two processes: one checkpoint, and a resumed run equal to an uninterrupted one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from diffopd.callbacks import RoundCheckpoint
from diffopd.checkpoint import SafetensorsCheckpointIO, latest_valid_checkpoint, read_checkpoint
from diffopd.strategy import DataParallel


class EndsAsAsked(Callback):
    """In each process, of which one gets the signal."""

    def __init__(self, checkpoint: RoundCheckpoint, signal_in: int) -> None:
        self.checkpoint, self.signal_in = checkpoint, signal_in

    def on_fit_end(self, trainer, pl_module):
        assert self.checkpoint.interrupted == (self.signal_in >= 0)


def run(phase, folder: Path, signal_in: int) -> list[str]:
    """Six rounds, or until a signal to the second process."""
    callback = RoundCheckpoint(folder=str(folder), every_n_rounds=100, keep_last=5, keep_every_n_rounds=None)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DataParallel(start_method="fork", timeout_minutes=30),
        max_epochs=6,
        logger=False,
        callbacks=[callback, EndsAsAsked(callback, signal_in)],
        plugins=[SafetensorsCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )

    def interrupt(round_index: int) -> None:
        if trainer.global_rank == 1 and round_index == signal_in:
            os.kill(os.getpid(), signal.SIGINT)

    phase.before_round = interrupt
    trainer.fit(phase, ckpt_path=latest_valid_checkpoint(folder))
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
@pytest.mark.filterwarnings("ignore:.*sync_dist=True")  # the tiny phase logs as one process does
def test_a_signal_to_one_process_stops_both_and_the_run_resumes(tiny_phase, tmp_path):
    assert run(tiny_phase(), tmp_path / "whole", -1) == ["round_000006"]
    assert run(tiny_phase(), tmp_path / "cut", 2) == ["round_000003"]
    assert run(tiny_phase(), tmp_path / "cut", -1) == ["round_000003", "round_000006"]
    whole, resumed = (read_checkpoint(tmp_path / name / "round_000006") for name in ("whole", "cut"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert whole["loops"] == resumed["loops"]
