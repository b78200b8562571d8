import json
import logging
import os
import shutil
import signal

import pytest
import torch

from diffopd.callbacks import ResumableCSVLogger, RoundCheckpoint
from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint, write_checkpoint
from diffopd.checkpoint.folder import MANIFEST, STATE


def names(folder):
    return sorted(os.listdir(folder))


def state_of(phase, trainer):
    return {
        "parameters": dict(phase.named_parameters()),
        "optimizer": trainer.optimizers[0].state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "rounds": trainer.current_epoch,
        "steps": trainer.global_step,
    }


def assert_bitwise_equal(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_bitwise_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_bitwise_equal(x, y, f"{path}.{i}")
    else:
        assert a == b, path


def test_saves_every_n_and_the_last_and_keeps_the_newest(fit, tiny_phase, tmp_path):
    fit(
        tiny_phase(),
        [RoundCheckpoint(folder=str(tmp_path), every_n_rounds=2, keep_last=3, keep_every_n_rounds=None)],
        7,
    )
    assert names(tmp_path) == ["round_000004", "round_000006", "round_000007"]


@pytest.mark.parametrize("num_batches", [1, 2])
def test_resumed_equals_uninterrupted_bit_for_bit(fit, tiny_phase, tmp_path, num_batches):
    def checkpoint(name):
        return RoundCheckpoint(
            folder=str(tmp_path / name), every_n_rounds=3, keep_last=9, keep_every_n_rounds=None
        )

    whole = tiny_phase(num_batches=num_batches)
    whole_trainer = fit(whole, [checkpoint("whole")], 6)

    first = tiny_phase(num_batches=num_batches)
    fit(first, [checkpoint("cut")], 3)
    second = tiny_phase(num_batches=num_batches)
    with torch.no_grad():
        second.adapter.weight.zero_()  # so that the test fails if the weights are not restored
    second_trainer = fit(second, [checkpoint("cut")], 6, ckpt_path=tmp_path / "cut" / "round_000003")

    assert len(second.losses) == 3 * num_batches
    assert first.losses + second.losses == whole.losses
    assert_bitwise_equal(state_of(second, second_trainer), state_of(whole, whole_trainer))
    # The checkpoints at the end agree too, progress counters included.
    ends = [read_checkpoint(tmp_path / name / "round_000006") for name in ("whole", "cut")]
    assert_bitwise_equal(*ends)
    assert names(tmp_path / "cut") == ["round_000003", "round_000006"]


def test_resuming_a_finished_run_does_nothing(fit, tiny_phase, tmp_path):
    checkpoint = RoundCheckpoint(
        folder=str(tmp_path), every_n_rounds=3, keep_last=9, keep_every_n_rounds=None
    )
    fit(tiny_phase(), [checkpoint], 3)
    again = tiny_phase()
    fit(again, [checkpoint], 3, ckpt_path=tmp_path / "round_000003")
    assert again.losses == []


def test_checkpoint_holds_what_the_phase_trains_alone(fit, tiny_phase, tmp_path):
    fit(
        tiny_phase(),
        [RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None)],
        1,
    )
    checkpoint = read_checkpoint(tmp_path / "round_000001")
    assert checkpoint["state_dict"].keys() == {"adapter.weight", "adapter.bias"}
    text = json.loads((tmp_path / "round_000001" / STATE).read_text())
    assert text["state_dict"]["adapter.weight"] == {"$tensor": "state_dict.adapter.weight"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_round_saves_and_stops(fit, tiny_phase, tmp_path, caplog, number):
    before = signal.getsignal(number)
    phase = tiny_phase()
    phase.before_round = lambda i: os.kill(os.getpid(), number) if i == 2 else None
    callback = RoundCheckpoint(
        folder=str(tmp_path / "cut"), every_n_rounds=100, keep_last=1, keep_every_n_rounds=None
    )
    with caplog.at_level(logging.WARNING):
        fit(phase, [callback], 6)
    assert callback.interrupted
    assert len(phase.losses) == 3
    assert names(tmp_path / "cut") == ["round_000003"]
    assert f"{signal.Signals(number).name}: stopping after this round" in caplog.text
    assert "interrupted after round 3, saved in" in caplog.text
    assert signal.getsignal(number) == before

    whole, rest = tiny_phase(), tiny_phase()
    fit(whole, [], 6)
    fit(rest, [callback], 6, ckpt_path=latest_valid_checkpoint(tmp_path / "cut"))
    assert phase.losses + rest.losses == whole.losses
    assert not callback.interrupted


@pytest.fixture
def listening_to_ctrl_c():
    """A process started in the background may have inherited deafness to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_interrupt_stops_at_once(fit, tiny_phase, tmp_path, listening_to_ctrl_c):
    phase = tiny_phase()

    def interrupt_twice(round_index):
        if round_index == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    phase.before_round = interrupt_twice
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(
            phase,
            [RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=9, keep_every_n_rounds=None)],
            6,
        )
    assert len(phase.losses) == 2
    assert names(tmp_path) == ["round_000001", "round_000002"]


def test_error_saves_nothing_and_names_the_last_checkpoint(fit, tiny_phase, tmp_path, caplog):
    phase = tiny_phase()

    def fail(round_index):
        if round_index == 3:
            raise RuntimeError("out of memory")

    phase.before_round = fail
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="out of memory"), caplog.at_level(logging.ERROR):
        fit(
            phase,
            [RoundCheckpoint(folder=str(tmp_path), every_n_rounds=2, keep_last=9, keep_every_n_rounds=None)],
            6,
        )
    assert names(tmp_path) == ["round_000002"]
    assert "stopped by RuntimeError; last checkpoint: " in caplog.text
    assert "round_000002" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("name", ["every_n_rounds", "keep_last", "keep_every_n_rounds"])
def test_numbers_below_one_are_refused(name):
    numbers = {"every_n_rounds": 1, "keep_last": 1, "keep_every_n_rounds": 1} | {name: 0}
    with pytest.raises(ValueError, match=rf"callbacks\.round_checkpoint\.{name} must be at least 1, got 0"):
        RoundCheckpoint(folder="unused", **numbers)


def test_every_so_many_rounds_one_is_kept_for_good(fit, tiny_phase, tmp_path):
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=3)
    fit(tiny_phase(), [callback], 8)
    assert names(tmp_path) == ["round_000003", "round_000006", "round_000008"]


def test_what_is_kept_for_good_has_to_be_saved():
    with pytest.raises(ValueError, match=r"keep_every_n_rounds=5 must be a multiple of .*every_n_rounds=2"):
        RoundCheckpoint(folder="unused", every_n_rounds=2, keep_last=1, keep_every_n_rounds=5)


def test_a_damaged_newer_checkpoint_does_not_outlive_the_intact_ones(fit, tiny_phase, tmp_path):
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=2, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 5)
    (tmp_path / "round_000005" / STATE).unlink()
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None)
    phase = tiny_phase()

    def fail(round_index):
        if round_index == 5:
            raise RuntimeError("the end of this sitting")

    phase.before_round = fail
    with pytest.raises(RuntimeError, match="this sitting"):
        fit(phase, [callback], 7, ckpt_path=latest_valid_checkpoint(tmp_path))
    assert names(tmp_path) == ["round_000005"]
    assert latest_valid_checkpoint(tmp_path) == tmp_path / "round_000005"


def test_later_checkpoints_that_are_damaged_go_once_an_intact_one_is_saved(fit, tiny_phase, tmp_path):
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=2, keep_last=9, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 2)
    (tmp_path / "round_000009").mkdir()
    fit(tiny_phase(), [callback], 4, ckpt_path=tmp_path / "round_000002")
    assert names(tmp_path) == ["round_000002", "round_000004"]


def test_what_is_merely_later_is_never_removed(fit, tiny_phase, tmp_path, caplog):
    """A newer format, one not readable when the run was resumed, one of another run; links and files."""
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=2, keep_last=1, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 9)
    newest = tmp_path / "round_000009"
    for number in (3, 4, 7):
        shutil.copytree(newest, tmp_path / f"round_{number:06d}")
    (tmp_path / "round_000003" / MANIFEST).write_text('{"version": 99, "files": {}}')
    write_checkpoint({"foreign": torch.ones(1)}, tmp_path / "elsewhere")
    (tmp_path / "round_000006").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "round_000008").write_text("a file")
    (tmp_path / "round_000010").mkdir()  # incomplete: the only one that may go
    fit(tiny_phase(), [callback], 8)  # from the start, and not from any of these
    assert names(tmp_path) == ["elsewhere", "round_000008", "set_aside"]
    expected = [
        "round_000003",
        "round_000004",
        "round_000006",
        "round_000007",
        "round_000008",
        "round_000009",
    ]
    assert names(tmp_path / "set_aside") == expected
    assert (tmp_path / "set_aside" / "round_000008").read_text() == "a file"
    assert read_checkpoint(tmp_path / "set_aside" / "round_000006")["foreign"].tolist() == [1]
    assert latest_valid_checkpoint(tmp_path) == tmp_path / "round_000008"
    assert read_checkpoint(tmp_path / "round_000008")["epoch"] == 7
    assert f"{newest} is kept as {tmp_path / 'set_aside' / 'round_000009'}" in caplog.text
    assert f"removing the damaged checkpoint {tmp_path / 'round_000010'}" in caplog.text


def test_links_and_files_with_the_name_of_an_old_checkpoint_are_left_alone(fit, tiny_phase, tmp_path):
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 2)
    (tmp_path / "round_000002").rename(tmp_path / "archive")
    (tmp_path / "round_000002").symlink_to("archive")  # moved to another disk, say
    (tmp_path / "round_000001").write_text("a file")
    (tmp_path / "round_²").mkdir()
    fit(tiny_phase(), [callback], 4, ckpt_path=latest_valid_checkpoint(tmp_path))
    assert names(tmp_path) == ["archive", "round_000001", "round_000002", "round_000004", "round_²"]
    assert read_checkpoint(tmp_path / "archive")["epoch"] == 1


def test_an_old_checkpoint_that_cannot_be_removed_does_not_end_the_run(
    fit, tiny_phase, tmp_path, monkeypatch, caplog
):
    def fail(path):
        raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr("diffopd.checkpoint.folder.shutil.rmtree", fail)
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 3)
    assert "round_000003" in names(tmp_path)
    assert f"{tmp_path / 'round_000002'} cannot be removed" in caplog.text


def test_every_file_of_a_checkpoint_has_the_usual_permissions(fit, tiny_phase, tmp_path):
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 1)
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    files = list((tmp_path / "round_000001").iterdir())
    assert {file.stat().st_mode for file in files} == {usual}
    assert len(files) == 3


def test_what_a_killed_writer_left_is_cleared_away(fit, tiny_phase, tmp_path):
    for name in (".round_000007.writing", ".round_000007.replaced", ".round_000001.removing", ".other"):
        (tmp_path / name).mkdir()
    callback = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=2, keep_last=9, keep_every_n_rounds=None)
    fit(tiny_phase(), [callback], 2)
    assert names(tmp_path) == [".other", "round_000002"]


def test_means_that_come_after_the_checkpoint_are_in_it_and_are_logged_by_the_resumed_run(
    fit, tiny_phase, tmp_path
):
    def train(folder, rounds, **more):
        checkpoint = RoundCheckpoint(
            folder=str(folder), every_n_rounds=1, keep_last=9, keep_every_n_rounds=None
        )
        logger = ResumableCSVLogger(folder=str(folder))
        fit(tiny_phase(), [checkpoint], rounds, logger=[logger], **more)
        return (folder / "metrics.csv").read_text().splitlines()

    whole = train(tmp_path / "whole", 4)
    cut = tmp_path / "cut"
    lines = train(cut, 3)
    # As if it had been killed after its second checkpoint, before the round's means were logged.
    (cut / "metrics.csv").write_text("\n".join([*lines[:2], lines[2][:7]]))
    assert train(cut, 4, ckpt_path=cut / "round_000002") == whole
