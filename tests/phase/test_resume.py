"""A training that is interrupted and resumed is the training that was not, bit for bit."""

from __future__ import annotations

import csv
import os
import signal

import pytest
import torch
from lightning.pytorch import Callback

from diffopd.checkpoint import decode_tree, encode_tree, latest_valid_checkpoint, read_checkpoint

ROUNDS = 4
RUNS = {
    "mopd_sde": ("reward=picture_quality", "phase.score_every_n_rounds=3", "phase.ema.update_interval=2"),
    "teacher_aesthetic": (),
    "guard_aesthetic": ("phase.noise_window.size=3",),
    "mini_pretrain": ("phase.warmup_steps=1", "data.batches_per_round=2"),
    "mini_autoencoder": ("phase.warmup_steps=1", "data.batches_per_round=2"),
}


class Interrupt(Callback):
    """Ctrl-C in the middle of a round."""

    def __init__(self, in_round):
        self.in_round = in_round

    def on_train_batch_start(self, trainer, *_):
        if trainer.current_epoch == self.in_round:
            os.kill(os.getpid(), signal.SIGINT)
            self.in_round = -1


@pytest.mark.parametrize("name", RUNS)
def test_interrupted_equals_uninterrupted(world, tmp_path, name):
    def build(folder):
        settings = (f"trainer.max_epochs={ROUNDS}", "callbacks.round_checkpoint.every_n_rounds=100")
        return world.build(name, folder, *settings, *RUNS[name])

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    build(whole).fit()
    first = build(cut)
    first.trainer.callbacks.insert(0, Interrupt(in_round=1))
    first.fit()
    assert latest_valid_checkpoint(cut / "checkpoints").name == "round_000002"
    torch.randn(3)  # whatever happens between the two must not matter
    resumed = build(cut)
    resumed.fit()

    assert resumed.trainer.current_epoch == ROUNDS
    expected, found = (final_state(folder) for folder in (whole, cut))
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    assert metrics(cut) == metrics(whole)


def final_state(folder):
    """Weights, averages and optimiser state at the end."""
    checkpoint = read_checkpoint(latest_valid_checkpoint(folder / "checkpoints"))
    assert latest_valid_checkpoint(folder / "checkpoints").name == f"round_{ROUNDS:06d}"
    kept = {
        key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
    }
    numbers, tensors = encode_tree(kept)
    assert tensors
    assert decode_tree(numbers, tensors)["global_step"] >= ROUNDS
    return tensors


def metrics(folder):
    """Every logged line but for time and memory."""
    with (folder / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines
    return [
        {k: v for k, v in line.items() if v and not k.startswith(("train/time", "train/memory"))}
        for line in lines
    ]
