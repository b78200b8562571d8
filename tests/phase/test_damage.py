"""A training goes on from what is intact: damaged checkpoints, a writer that was killed, a full disk."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sys

import pytest
import torch

import diffopd.build.experiment
from diffopd.checkpoint import latest_valid_checkpoint, tensor_files
from diffopd.checkpoint.folder import MANIFEST, STATE, TENSORS
from diffopd.command.program import INTERRUPTED, STOPPED
from diffopd.phase import NFTPhase
from diffopd.train import main
from support.interruption import ROUNDS, final_state, metrics

NAME = "teacher_aesthetic"
SETTINGS = (
    "callbacks.round_checkpoint.every_n_rounds=1",
    "callbacks.round_checkpoint.keep_last=9",
    "sampler.num_steps=4",
    "phase.num_timesteps=2",
    "phase.updates_per_round=2",
    "~report",
)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The folder of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("damage") / "whole"
    world.build(NAME, folder, *SETTINGS, f"trainer.max_epochs={ROUNDS}").fit()
    return folder


@pytest.fixture
def cut(whole, tmp_path):
    """The same as it was after all rounds but the last."""
    folder = tmp_path / "cut"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / f"round_{ROUNDS:06d}")
    return folder


def assert_ends_as(world, folder, whole):
    """Going on, the training ends as the uninterrupted one."""
    world.build(NAME, folder, *SETTINGS, f"trainer.max_epochs={ROUNDS}").fit()
    expected, found = final_state(whole), final_state(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert metrics(folder) == metrics(whole)
    assert not list((folder / "checkpoints").glob(".*"))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def killed_while_writing(checkpoint):
    """What a writer leaves that is killed before the manifest: a hidden folder, and no checkpoint."""
    checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.writing"))
    (checkpoint.with_name(f".{checkpoint.name}.writing") / MANIFEST).unlink()


DAMAGES = {
    "truncated tensors": lambda checkpoint: truncate(checkpoint / TENSORS),
    "truncated manifest": lambda checkpoint: truncate(checkpoint / MANIFEST),
    "flipped bit": lambda checkpoint: flip_a_bit(checkpoint / TENSORS),
    "flipped bit of the state": lambda checkpoint: flip_a_bit(checkpoint / STATE),
    "missing file": lambda checkpoint: (checkpoint / STATE).unlink(),
    "killed while writing": killed_while_writing,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(world, whole, cut, caplog, damage):
    newest, before = (cut / "checkpoints" / f"round_{ROUNDS - back:06d}" for back in (1, 2))
    DAMAGES[damage](newest)
    with caplog.at_level(logging.INFO):
        assert_ends_as(world, cut, whole)
    assert f"resuming from {before}" in caplog.text
    told = f"skipping a damaged checkpoint: {newest}" in caplog.text
    assert told == (damage != "killed while writing")


@pytest.fixture
def train(world, tmp_path, monkeypatch):
    """``train(folder)`` calls the program in this process; its exit code."""

    def run(folder):
        settings = [*world.overrides(NAME), *SETTINGS, f"trainer.max_epochs={ROUNDS}"]
        arguments = [f"+experiment={NAME}", *settings, f"hydra.run.dir={folder}", f"paths.root={tmp_path}"]
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        try:
            main()
        except SystemExit as end:
            return end.code
        return 0

    return run


def test_a_full_disk_stops_the_training_and_leaves_the_last_checkpoint(
    world, whole, train, tmp_path, monkeypatch, capfd
):
    folder, saved = tmp_path / "full", []
    save = tensor_files.save_file

    def save_where_there_is_room(tensors, path, header):
        if len(saved) == 2:
            path.write_bytes(b"as much as there was room for")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        saved.append(path)
        save(tensors, path, header)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "save_file", save_where_there_is_room)
        assert train(folder) == STOPPED
    shown = capfd.readouterr().err
    assert "stopped: no space left on the disk" in shown
    assert "the same command resumes from the newest checkpoint" in shown
    assert "Traceback" not in shown
    assert latest_valid_checkpoint(folder / "checkpoints").name == "round_000002"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "round_000001",
        "round_000002",
    ]
    assert_ends_as(world, folder, whole)


@pytest.mark.slow  # tests/phase/test_resume.py interrupts and resumes each time
def test_an_interrupted_program_says_so_by_its_exit_code_and_goes_on(
    world, whole, train, tmp_path, monkeypatch, capfd
):
    folder, step = tmp_path / "asked", NFTPhase.training_step

    def step_and_ask(phase, prompts, batch_index):
        if phase.round == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(phase, prompts, batch_index)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(NFTPhase, "training_step", step_and_ask)
        assert train(folder) == INTERRUPTED == 75
    assert (
        "interrupted: a checkpoint is saved; start the same command again to resume" in capfd.readouterr().err
    )
    assert latest_valid_checkpoint(folder / "checkpoints").name == "round_000002"
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (folder / "finished.json").exists()
    assert train(folder) == 0
    assert_ends_as(world, folder, whole)


def test_a_request_to_end_before_the_first_round_ends_at_once(train, tmp_path, monkeypatch, capfd):
    def build_and_ask(cfg):
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("it went on")

    monkeypatch.setattr(diffopd.build.experiment, "build", build_and_ask)
    assert train(tmp_path / "early") == INTERRUPTED
    assert "interrupted: SIGUSR1; start the same command again to resume" in capfd.readouterr().err


def test_what_follows_the_last_checkpoint_is_made_up_for(world, whole, tmp_path):
    """A training that was killed between its last checkpoint and its end exports all the same."""
    folder = tmp_path / "late"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "lora")
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:-1]))
    assert_ends_as(world, folder, whole)
    made, expected = (f / "adapter" / "adapter_model.safetensors" for f in (folder, whole))
    assert made.read_bytes() == expected.read_bytes()
    assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()
