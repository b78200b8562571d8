"""A program that is asked to end: a checkpoint, an exit code of its own, and the same command goes on."""

from __future__ import annotations

import pytest

from diffopd.checkpoint import latest_valid_checkpoint
from diffopd.command.program import INTERRUPTED
from diffopd.run.resume import FINISHED
from support import copies, programs

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
def test_a_sweep_that_is_asked_to_end_saves_ends_and_goes_on(world, tmp_path):
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
    result = copies.run(tmp_path, "train", *arguments)
    runs = tmp_path / "runs" / "teacher_aesthetic"
    assert result.returncode == INTERRUPTED, result.stdout + result.stderr
    assert "interrupted: a checkpoint is saved; start the same command again to resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert latest_valid_checkpoint(runs / "seed0" / "checkpoints").name == "round_000002"
    assert not (runs / "seed0" / FINISHED).exists()
    assert not (runs / "seed1" / "checkpoints").exists()

    result = copies.run(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert all((runs / f"seed{seed}" / FINISHED).is_file() for seed in (0, 1))


@pytest.mark.slow
def test_two_processes_end_together_with_one_code(world, tmp_path):
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
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    others = [line for line in lines if line.startswith("[process 1]")]
    assert [line for line in others if "[diffopd." not in line] == []  # it repeats nothing of the libraries
    folder = tmp_path / "runs" / "teacher_aesthetic" / "seed0"
    assert latest_valid_checkpoint(folder / "checkpoints").name == "round_000002"


@pytest.mark.slow
def test_a_run_outlives_the_reader_of_its_output(world, tmp_path):
    settings = world.overrides("teacher_aesthetic")
    show_all = "callbacks.round_progress.seconds_per_line=0"
    process = programs.start(
        tmp_path, "train", "+experiment=teacher_aesthetic", *settings, show_all, "~report"
    )
    try:
        assert process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        complaints = process.stderr.read()
        assert process.wait(programs.SECONDS) == 0, complaints
    finally:
        process.kill()
        process.stderr.close()
    assert "Traceback" not in complaints
    assert (tmp_path / "runs" / "teacher_aesthetic" / "seed0" / FINISHED).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("way_out", ["sys.exit(0)", "os._exit(0)"])
def test_a_reward_that_ends_the_program_is_no_success(world, tmp_path, way_out):
    reward = f"import os, sys\nclass Leaver:\n    def __call__(self, images, prompts): {way_out}\n"
    (tmp_path / "leaver.py").write_text(reward)
    settings = [*world.overrides("teacher_aesthetic"), "~report"]
    own = ["reward=custom", "reward._target_=leaver.Leaver"]
    result = copies.run(tmp_path, "train", "+experiment=teacher_aesthetic", *own, *settings)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "stopped: " in result.stderr
    assert way_out in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs" / "teacher_aesthetic" / "seed0" / FINISHED).exists()
