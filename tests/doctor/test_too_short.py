"""Settings that wait for more rounds or updates than a run has are warned of."""

from __future__ import annotations

import pytest

from diffopd.doctor.finding import Level
from diffopd.doctor.too_short import length_of_run_findings


@pytest.mark.parametrize(
    ("experiment", "overrides", "enough", "text"),
    [
        (
            "mini_autoencoder",
            ["data.batches_per_round=5", "phase.warmup_steps=20"],
            5,
            "phase.warmup_steps=20: the learning rate never reaches optimizer.lr within the 20 updates",
        ),
        (
            "mopd_ode",
            ["phase.warmup_rounds=6"],
            7,
            "phase.warmup_rounds=6: the learning rate reaches optimizer.lr in the last of the 6 rounds of",
        ),
        (
            "teacher_ocr",
            ["callbacks=[default,reward_guard]", "callbacks.reward_guard.rounds_per_evaluation=2"],
            6,
            "callbacks.reward_guard.rounds_per_evaluation=2 with patience=2: the guard first compares enough "
            "evaluations to act, after 6 rounds, but trainer.max_epochs=",
        ),
        (
            "mopd_ode",
            ["callbacks=[default,gradient_signal]", "callbacks.gradient_signal.num_rounds=7"],
            7,
            "callbacks.gradient_signal.num_rounds=7: its first value is logged, after 7 rounds",
        ),
        (
            "mopd_ode",
            ["balance=remaining_gap", "balance.update_every_n_rounds=3"],
            5,
            "balance.update_every_n_rounds=3 with num_first=1: tasks first get weights that differ, "
            "after 5 rounds",
        ),
        (
            "mopd_ode",
            ["balance=remaining_gap", "balance.update_every_n_rounds=2", "balance.num_first=4"],
            8,  # observed in rounds 0, 2, 4 and 6
            "balance.update_every_n_rounds=2 with num_first=4: tasks first get weights that differ, "
            "after 8 rounds",
        ),
    ],
)
def test_what_a_run_is_too_short_for(plan, experiment, overrides, enough, text):
    short = list(length_of_run_findings(plan(experiment, *overrides, f"trainer.max_epochs={enough - 1}")))
    assert [finding.level for finding in short] == [Level.WARNING]
    assert text in short[0].text
    assert not list(length_of_run_findings(plan(experiment, *overrides, f"trainer.max_epochs={enough}")))
