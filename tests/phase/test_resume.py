"""A training that is interrupted and resumed is the training that was not, bit for bit."""

from __future__ import annotations

import pytest
import torch
from interruption import ROUNDS, Interrupt, final_state, metrics

from diffopd.checkpoint import latest_valid_checkpoint

RUNS = {
    "mopd_sde": ("reward=picture_quality", "phase.score_every_n_rounds=3", "phase.ema.update_interval=2"),
    "teacher_aesthetic": (),
    "guard_aesthetic": ("phase.noise_window.size=3",),
    "mini_pretrain": ("phase.warmup_steps=1", "data.batches_per_round=2"),
    "mini_autoencoder": ("phase.warmup_steps=1", "data.batches_per_round=2"),
}


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
