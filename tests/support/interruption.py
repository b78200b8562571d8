"""What tests of interrupted trainings share: an interruption, and what is compared in the end."""

from __future__ import annotations

import csv
import os
import signal

from lightning.pytorch import Callback

from diffopd.checkpoint import decode_tree, encode_tree, latest_valid_checkpoint, read_checkpoint

ROUNDS = 4


class Interrupt(Callback):
    """Ctrl-C in the middle of a round."""

    def __init__(self, in_round):
        self.in_round = in_round

    def on_train_batch_start(self, trainer, *_):
        if trainer.current_epoch == self.in_round:
            os.kill(os.getpid(), signal.SIGINT)
            self.in_round = -1


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
        {k: v for k, v in line.items() if v and not k.startswith(("train/time", "train/memory", "check"))}
        for line in lines
    ]
