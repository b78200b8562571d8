"""What learning rates do over the rounds."""

from __future__ import annotations

import math

import pytest

from diffopd.phase.schedule import learning_rate_factor
from diffopd.phase.settings import StudentSettings
from support.interruption import metrics


def factors(schedule, total, warmup):
    return [learning_rate_factor(schedule, step, total=total, warmup=warmup) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 1, 3 / 4, 1 / 2, 1 / 4]),
        ("cosine", [1 / 3, 2 / 3, 1, 1, (2 + math.sqrt(2)) / 4, 1 / 2, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_factors_by_hand(schedule, expected):
    assert factors(schedule, total=7, warmup=3) == pytest.approx(expected)


def test_a_warm_up_as_long_as_the_training_only_rises():
    assert factors("cosine", total=3, warmup=3) == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_step_after_the_last_has_none():
    assert learning_rate_factor("cosine", 9, total=5, warmup=1) == 0


@pytest.mark.parametrize(
    "experiment", [pytest.param("mopd_ode", marks=pytest.mark.slow), "teacher_aesthetic"]
)
def test_a_phase_follows_its_schedule(world, tmp_path, experiment):
    settings = (
        "optimizer.lr=0.5",
        "phase.lr_schedule=linear",
        "phase.warmup_rounds=1",
        "trainer.max_epochs=3",
    )
    world.build(experiment, tmp_path, *settings).fit()
    rates = [
        float(line["train/learning_rate"]) for line in metrics(tmp_path) if "train/learning_rate" in line
    ]
    assert rates == pytest.approx([0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"lr_schedule": "sine"},
            "phase.lr_schedule=sine is not known; choose one of constant, linear, cosine",
        ),
        ({"warmup_rounds": -1}, "phase.warmup_rounds=-1 must be at least 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_no_schedule_is_told(wrong, message):
    settings = {"seed": 0, "ema": {}, "gradient_clip": 1, "micro_batch_size": None}
    with pytest.raises(ValueError, match=message):
        StudentSettings(conflict_every_n_rounds=0, score_every_n_rounds=0, **settings, **wrong)


def test_a_config_of_before_builds_a_phase_of_a_constant_rate(world, tmp_path):
    without = ("~phase.lr_schedule", "~phase.warmup_rounds", "balance=remaining_gap", "~balance.num_first")
    phase = world.build("mopd_ode", tmp_path, *without).phase
    assert (phase.settings.lr_schedule, phase.settings.warmup_rounds) == ("constant", 0)
    assert phase.balance.num_first == 1
