import io
import re

import pytest
from rich.console import Console

from diffopd.callbacks import RoundCheckpoint, RoundProgress
from diffopd.callbacks.round_progress import duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Advances by ``step`` at every reading: two readings are two seconds per round or whatever is set."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def progress(stream, *, seconds_per_line=0.0, step=2.0, metrics=("train/loss/*", "train/reward/*")):
    return RoundProgress(
        metrics=metrics,
        seconds_per_line=seconds_per_line,
        num_rounds_in_rate=2,
        console=Console(file=stream),
        clock=Clock(step),
    )


def test_plain_lines_show_rate_time_left_and_metrics_in_order(fit, tiny_phase):
    stream = io.StringIO()
    fit(tiny_phase(), [progress(stream)], 3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    for line, done, left in zip(lines, (1, 2, 3), ("0:04", "0:02", "0:00"), strict=False):
        pattern = rf"round {done}/3 \| 2\.00 s/round, {left} left \| loss/total \d\.\d+  reward/ocr 0\.25"
        assert re.fullmatch(pattern, line), line
    assert lines[-1] == "3 rounds in 0:08"  # four readings of the clock after the first


def test_one_round_is_not_told_as_several(fit, tiny_phase):
    stream = io.StringIO()
    fit(tiny_phase(), [progress(stream)], 1)
    assert stream.getvalue().splitlines()[-1].startswith("1 round in ")


def test_plain_lines_keep_their_distance_but_show_the_first_and_last_round(fit, tiny_phase):
    stream = io.StringIO()
    fit(tiny_phase(), [progress(stream, seconds_per_line=6.0)], 8)
    shown = [int(n) for n in re.findall(r"round (\d+)/8", stream.getvalue())]
    assert shown == [1, 4, 7, 8]


def test_a_reward_of_an_earlier_round_is_shown_with_its_round(fit, tiny_phase):
    phase, stream = tiny_phase(), io.StringIO()
    log = phase.log

    def log_every_third(name, value, **options):
        if not name.startswith("train/reward") or phase.current_epoch % 3 == 0:
            log(name, 0.25 + phase.current_epoch if "reward" in name else value, **options)

    phase.log = log_every_third
    fit(phase, [progress(stream)], 5)
    ends = [re.split(r"loss/total \d\.\d+", line)[1] for line in stream.getvalue().splitlines()[:5]]
    assert ends == [
        "  reward/ocr 0.25",
        " | in round 1: reward/ocr 0.25",
        " | in round 1: reward/ocr 0.25",
        "  reward/ocr 3.25",
        " | in round 4: reward/ocr 3.25",
    ]


def test_an_unchanged_reward_that_was_scored_again_is_of_the_new_round(fit, tiny_phase):
    stream = io.StringIO()
    fit(tiny_phase(), [progress(stream)], 3)
    assert "in round" not in stream.getvalue()


def test_resumed_run_counts_from_where_it_was(fit, tiny_phase, tmp_path):
    checkpoint = RoundCheckpoint(
        folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None
    )
    fit(tiny_phase(), [checkpoint], 2)
    stream = io.StringIO()
    fit(tiny_phase(), [progress(stream, metrics=()), checkpoint], 4, ckpt_path=tmp_path / "round_000002")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "round 3/4 | 2.00 s/round, 0:02 left"
    assert lines[-1] == "2 rounds in 0:06"


def test_a_finished_run_that_is_started_again_has_nothing_left_to_train(fit, tiny_phase, tmp_path):
    checkpoint = RoundCheckpoint(
        folder=str(tmp_path), every_n_rounds=1, keep_last=1, keep_every_n_rounds=None
    )
    fit(tiny_phase(), [checkpoint], 2)
    stream = io.StringIO()
    callback, phase = progress(stream, metrics=()), tiny_phase()
    trainer = fit(phase, [callback, checkpoint], 2, ckpt_path=tmp_path / "round_000002")
    callback.on_train_start(trainer, phase)  # Lightning calls neither then; Experiment.fit does
    callback.on_train_end(trainer, phase)
    assert stream.getvalue() == "nothing left to train: 2 rounds were done before\n"


@pytest.mark.parametrize("columns", ["80", "150"])
def test_terminal_shows_a_bar_and_whole_metrics(fit, tiny_phase, monkeypatch, columns):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    fit(tiny_phase(), [progress(stream)], 3)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "3/3" in text
    assert "2.00 s/round, 0:00 left" in text
    assert "━" in text
    assert "reward/ocr 0.25" in text
    assert text.rstrip().endswith("3 rounds in 0:08")


def test_bar_is_closed_when_training_fails(fit, tiny_phase, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    phase = tiny_phase()

    def fail(round_index):
        if round_index == 1:
            raise RuntimeError("out of memory")

    phase.before_round = fail
    callback = progress(stream)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(phase, [callback], 3)
    hidden, shown = stream.getvalue().rfind("\x1b[?25l"), stream.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown, "the cursor must be visible again"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599.4, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_rate_needs_a_round():
    with pytest.raises(
        ValueError, match=r"callbacks\.round_progress\.num_rounds_in_rate must be at least 1, got 0"
    ):
        RoundProgress(metrics=(), seconds_per_line=1.0, num_rounds_in_rate=0)
