import csv

import pytest
import torch

from diffopd.callbacks import ResumableCSVLogger


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "check"} for row in csv.DictReader(file)]


def test_columns_grow_and_every_line_is_there_at_once(tmp_path):
    logger = ResumableCSVLogger(folder=str(tmp_path / "run"))
    logger.log_metrics({"train/loss/kl": 0.5}, step=1)
    assert rows(tmp_path / "run") == [{"step": "1", "train/loss/kl": "0.5"}]
    logger.log_metrics({"reward": torch.tensor(0.25)}, step=2)
    logger.log_metrics({"train/loss/kl": 0.125, "reward": float("nan")}, step=3)
    assert rows(tmp_path / "run") == [
        {"step": "1", "train/loss/kl": "0.5", "reward": ""},
        {"step": "2", "train/loss/kl": "", "reward": "0.25"},
        {"step": "3", "train/loss/kl": "0.125", "reward": "nan"},
    ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]


def test_a_resumed_run_replaces_the_lines_from_its_first_step_on(tmp_path):
    interrupted = ResumableCSVLogger(folder=str(tmp_path))
    for step in (1, 2, 3):
        interrupted.log_metrics({"a": 0.0, "b": 0.0}, step=step)
    resumed = ResumableCSVLogger(folder=str(tmp_path))
    resumed.log_metrics({"a": 1.0, "c": 1.0}, step=2)
    resumed.log_metrics({"a": 1.0, "b": 1.0}, step=3)
    assert rows(tmp_path) == [
        {"step": "1", "a": "0.0", "b": "0.0", "c": ""},
        {"step": "2", "a": "1.0", "b": "", "c": "1.0"},
        {"step": "3", "a": "1.0", "b": "1.0", "c": ""},
    ]


def test_logs_a_training(tmp_path, fit, tiny_phase):
    fit(tiny_phase(), [], 3, logger=[ResumableCSVLogger(folder=str(tmp_path))])
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == ["0.0", "1.0", "2.0"]
    assert [row["train/reward/ocr"] for row in found] == ["0.25"] * 3


def test_a_step_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.csv needs a step"):
        ResumableCSVLogger(folder=str(tmp_path)).log_metrics({"a": 0.0})


def test_a_last_line_that_was_cut_is_written_again(tmp_path):
    interrupted = ResumableCSVLogger(folder=str(tmp_path))
    for step in (8, 9, 10):
        interrupted.log_metrics({"a": 0.5}, step=step)
    text = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(text[: text.rindex("0,0.5")])  # "1" of "10,0.5"
    resumed = ResumableCSVLogger(folder=str(tmp_path))
    resumed.log_metrics({"a": 1.0}, step=10)
    assert rows(tmp_path) == [{"step": s, "a": a} for s, a in (("8", "0.5"), ("9", "0.5"), ("10", "1.0"))]


@pytest.mark.parametrize("written", [True, False])
def test_the_last_report_before_a_checkpoint_is_there_once(tmp_path, written):
    interrupted = ResumableCSVLogger(folder=str(tmp_path))
    interrupted.log_metrics({"loss": 0.5}, step=3)
    if written:
        interrupted.log_metrics({"seconds": 2.0}, step=3)
        interrupted.log_metrics({"loss": 9.0}, step=4)
    resumed = ResumableCSVLogger(folder=str(tmp_path))
    resumed.go_on_after(3, {"seconds": 2.0})
    resumed.log_metrics({"loss": 0.25}, step=4)
    assert rows(tmp_path) == [
        {"step": "3", "loss": "0.5", "seconds": "2.0"},
        {"step": "4", "loss": "0.25", "seconds": ""},
    ]


def test_a_round_has_one_row_with_the_mean_of_its_batches(tmp_path):
    logger = ResumableCSVLogger(folder=str(tmp_path))
    for step, (loss, epoch) in enumerate([(0.5, 0.0), (1.0, 0.0), (3.0, 1.0)]):
        logger.log_metrics({"loss": loss, "epoch": epoch}, step=step)
        assert len(rows(tmp_path)) == 1 + (epoch == 1.0)  # on the disk at once
    promised = logger.row_with({"seconds": 8.0, "epoch": 1.0})
    logger.log_metrics({"seconds": 8.0, "epoch": 1.0}, step=2)
    assert rows(tmp_path) == [
        {"step": "1", "loss": "0.75", "epoch": "0.0", "seconds": ""},
        {"step": "2", "loss": "3.0", "epoch": "1.0", "seconds": "8.0"},
    ]
    assert promised == {"loss": 3.0, "epoch": 1.0, "seconds": 8.0}
    logger.log_metrics({"loss": 1.0, "epoch": 2.0}, step=3)
    assert logger.row_with({"epoch": 2.0, "seconds": 1.0}) == {"loss": 1.0, "epoch": 2.0, "seconds": 1.0}
    logger.log_metrics({"loss": 0.125, "epoch": 2.0}, step=4)  # shorter or longer than the row it replaces
    assert rows(tmp_path)[-1] == {"step": "4", "loss": "0.5625", "epoch": "2.0", "seconds": ""}


@pytest.mark.parametrize("cut_after", [0, 1, 2])
def test_a_cut_in_any_part_of_a_round_leaves_one_row_of_it(tmp_path, cut_after):
    """Killed before any report of round 2, between its two, or after both, and resumed after round 1."""
    interrupted = ResumableCSVLogger(folder=str(tmp_path))
    for number in (0, 1):
        interrupted.log_metrics({"loss": float(number), "epoch": float(number)}, step=number)
        row = interrupted.row_with({"seconds": 2.0, "epoch": float(number)})
        if number == 0 or cut_after:
            interrupted.log_metrics({"seconds": 2.0, "epoch": float(number)}, step=number)
    for report in [{"loss": 9.0}, {"seconds": 9.0}][:cut_after]:
        interrupted.log_metrics({**report, "epoch": 2.0}, step=2)
    resumed = ResumableCSVLogger(folder=str(tmp_path))
    resumed.go_on_after(1, row)
    resumed.log_metrics({"loss": 2.0, "epoch": 2.0}, step=2)
    resumed.log_metrics({"seconds": 2.0, "epoch": 2.0}, step=2)
    assert rows(tmp_path) == [
        {"step": str(n), "loss": f"{n}.0", "epoch": f"{n}.0", "seconds": "2.0"} for n in (0, 1, 2)
    ]


def test_rows_of_an_earlier_version_become_one_per_round(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss,epoch,seconds\n0,0.5,0.0,\n0,,0.0,2.0\n1,0.25,1.0,\n")
    resumed = ResumableCSVLogger(folder=str(tmp_path))
    resumed.go_on_after(1, {"seconds": 3.0, "epoch": 1.0})
    assert rows(tmp_path) == [
        {"step": "0", "loss": "0.5", "epoch": "0.0", "seconds": "2.0"},
        {"step": "1", "loss": "0.25", "epoch": "1.0", "seconds": "3.0"},
    ]


def test_every_damaged_file_is_kept(tmp_path):
    for _ in range(3):
        ResumableCSVLogger(folder=str(tmp_path)).log_metrics({"a": 0.5}, step=1)
        text = (tmp_path / "metrics.csv").read_text()
        (tmp_path / "metrics.csv").write_text(text.replace("0.5", "0.6"))
    ResumableCSVLogger(folder=str(tmp_path)).log_metrics({"a": 0.5}, step=1)
    names = ["metrics.damaged.csv", "metrics.damaged_2.csv", "metrics.damaged_3.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", *names]
