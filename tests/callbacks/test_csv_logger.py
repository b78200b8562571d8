import csv

import pytest
import torch

from diffopd.callbacks import ResumableCSVLogger


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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
        {"step": "3", "loss": "0.5", "seconds": ""},
        {"step": "3", "loss": "", "seconds": "2.0"},
        {"step": "4", "loss": "0.25", "seconds": ""},
    ]
