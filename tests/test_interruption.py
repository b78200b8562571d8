"""A program that is asked to end: a checkpoint, an exit code of its own, and the same command goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "phase"))

import programs
from tiny_runs import make_world

from diffopd.checkpoint import latest_valid_checkpoint
from diffopd.command import INTERRUPTED
from diffopd.resume import FINISHED

ASK = "ask_now"
STOPPER = f'''
"""Ask this program to end in its second round, once."""
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class AskToEnd(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1 and Path("{ASK}").exists():
            Path("{ASK}").unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGTERM)
'''


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_end_saves_ends_and_goes_on(tmp_path_factory, tmp_path):
    world = make_world(tmp_path_factory.mktemp("interruption"))
    (tmp_path / "stopper.py").write_text(STOPPER)
    (tmp_path / ASK).touch()
    arguments = [
        "-m",
        "+experiment=teacher_aesthetic",
        *world.overrides("teacher_aesthetic"),
        "seed=0,1",
        "hydra.sweep.subdir=seed${seed}",
        "trainer.max_epochs=3",
        "callbacks.round_checkpoint.every_n_rounds=100",
        "~report",
        "+callbacks.stopper={_target_: stopper.AskToEnd}",
    ]
    result = programs.run(tmp_path, "train", *arguments)
    runs = tmp_path / "runs" / "teacher_aesthetic"
    assert result.returncode == INTERRUPTED, result.stdout + result.stderr
    assert "interrupted: a checkpoint is saved; start the same command again to resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert latest_valid_checkpoint(runs / "seed0" / "checkpoints").name == "round_000002"
    assert not (runs / "seed0" / FINISHED).exists()
    assert not (runs / "seed1" / "checkpoints").exists()

    result = programs.run(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert all((runs / f"seed{seed}" / FINISHED).is_file() for seed in (0, 1))


@pytest.mark.slow
def test_two_processes_end_together_with_one_code(tmp_path_factory, tmp_path):
    world = make_world(tmp_path_factory.mktemp("interruption"))
    (tmp_path / "stopper.py").write_text(STOPPER)
    (tmp_path / ASK).touch()
    result = programs.run(
        tmp_path,
        "train",
        "+experiment=teacher_aesthetic",
        *world.overrides("teacher_aesthetic"),
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.max_epochs=3",
        "~report",
        "+callbacks.stopper={_target_: stopper.AskToEnd}",
    )
    assert result.returncode == INTERRUPTED, result.stdout + result.stderr
    folder = tmp_path / "runs" / "teacher_aesthetic" / "seed0"
    assert latest_valid_checkpoint(folder / "checkpoints").name == "round_000002"
