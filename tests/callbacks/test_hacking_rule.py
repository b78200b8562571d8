"""What counts as a rise beside a fall, on evaluations written out by hand."""

import dataclasses
import math
import re

import pytest

from diffopd.callbacks.hacking_rule import Evaluation, HackingRule

REWARD, OTHER, HELD_OUT, DRIFT = "train/reward/a", "train/reward/b", "train/held_out/x", "train/drift/d"


def rule(min_rise=0.125, min_fall=0.25, trained=("train/reward/*",), watched=("train/held_out/*",)):
    return HackingRule(tuple(trained), tuple(watched), min_rise, min_fall)


def evaluations(**columns):
    """One evaluation of ten rounds per entry of the columns."""
    names = {"reward": REWARD, "other": OTHER, "held_out": HELD_OUT, "drift": DRIFT}
    rows = zip(*columns.values(), strict=True)
    return [
        Evaluation(10 * place + 1, 10 * place + 10, dict(zip((names[c] for c in columns), row, strict=True)))
        for place, row in enumerate(rows)
    ]


def test_an_evaluation_is_the_mean_over_the_rounds_that_logged_a_metric():
    found = Evaluation.of([{"a": 1.0, "b": 4.0}, {"a": 2.0}, {"a": 6.0, "b": 5.0}], last_round=12)
    assert found == Evaluation(10, 12, {"a": 3.0, "b": 4.5})
    assert str(found) == "rounds 10-12"


@pytest.mark.parametrize(
    ("reward", "held_out", "fallen"),
    [
        ((0.5, 0.625), (1.0, 0.75), True),  # both exactly at their limit
        ((0.5, 0.620), (1.0, 0.75), False),
        ((0.5, 0.625), (1.0, 0.76), False),
        ((0.5, 0.375), (1.0, 0.75), False),  # both fall: no hacking
        ((0.5, 0.625), (0.75, 1.0), False),
        ((0.5, 0.625, 0.75), (1.0, 0.75, 0.5), True),
        ((0.5, 0.625, 0.625), (1.0, 0.75, 0.5), False),  # the reward rests in the second comparison
        ((0.5, 0.625, 0.75), (1.0, 0.75, 0.75), False),  # the held-out metric does
        ((0.5, math.nan), (1.0, 0.75), False),
    ],
)
def test_a_fall_needs_a_rise_in_every_comparison(reward, held_out, fallen):
    found = rule().fallen(evaluations(reward=reward, held_out=held_out))
    assert found == ([HELD_OUT] if fallen else [])


def test_a_limit_of_0_is_any_change_but_not_none():
    any_change = rule(min_rise=0.0, min_fall=0.0)
    assert any_change.fallen(evaluations(reward=(0.5, 0.5 + 1e-9), held_out=(0.5, 0.5 - 1e-9))) == [HELD_OUT]
    assert any_change.fallen(evaluations(reward=(0.5, 0.5), held_out=(0.5, 0.25))) == []
    assert any_change.fallen(evaluations(reward=(0.5, 0.75), held_out=(0.5, 0.5))) == []


def test_any_trained_metric_may_rise_but_one_and_the_same_watched_one_must_fall():
    watching = rule(watched=("train/held_out/*", "train/drift/d"))
    rising_in_turn = {"reward": (0.0, 0.5, 0.5), "other": (0.5, 0.5, 1.0)}
    falling_in_turn = {"held_out": (1.0, 0.5, 0.5), "drift": (1.0, 1.0, 0.5)}
    assert watching.fallen(evaluations(**rising_in_turn, **falling_in_turn)) == []
    assert watching.fallen(evaluations(**rising_in_turn, drift=(1.0, 0.5, 0.0))) == [DRIFT]


def test_one_reward_may_be_watched_while_another_rises():
    each_other = rule(watched=("train/reward/*",))
    assert each_other.fallen(evaluations(reward=(0.0, 0.5), other=(1.0, 0.5))) == [OTHER]


def test_a_metric_that_is_new_can_neither_rise_nor_fall():
    before = Evaluation(1, 10, {REWARD: 0.0})
    assert rule().fallen([before, Evaluation(11, 20, {REWARD: 1.0, HELD_OUT: -1.0})]) == []


def test_the_report_says_what_changed_from_what_to_what():
    found = rule().report(
        evaluations(reward=(0.25, 0.5, 0.75), other=(0.5, 0.5, 0.5), held_out=(1.0, 0.6666666, 0.25))
    )
    assert found.splitlines() == [
        "From rounds 1-10 to rounds 21-30, in means over the rounds:",
        "  train/reward/a rose from 0.25 to 0.75 (0.25 -> 0.5 -> 0.75)",
        "  train/held_out/x fell from 1 to 0.25 (1 -> 0.6667 -> 0.25)",
    ]


def test_the_metrics_it_keeps_are_those_that_match():
    metrics = {REWARD: 1.0, HELD_OUT: 2.0, DRIFT: 3.0, "train/loss/kl": 4.0}
    rule().check_matches(metrics)
    assert rule().chosen(metrics) == {REWARD: 1.0, HELD_OUT: 2.0}


@pytest.mark.parametrize("name", ["trained", "watched"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_metrics_there_are(name):
    usual = {"trained": "train/reward/*", "watched": "train/held_out/*"}[name]
    typo = dataclasses.replace(rule(), **{name: (usual, "train/heldout/*")})
    message = (
        f"callbacks.reward_guard.{name}: no logged metric matches train/heldout/*; there are "
        "train/held_out/x, train/reward/a. Name some of these, or leave the guard out"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        typo.check_matches({REWARD: 1.0, HELD_OUT: 2.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rise": -0.1}, "min_rise must be a finite number of at least 0, got -0.1"),
        ({"min_fall": math.nan}, "min_fall must be a finite number of at least 0, got nan"),
        ({"trained": ()}, "trained is empty"),
        ({"watched": ()}, "watched is empty"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(f"callbacks.reward_guard.{message}")):
        rule(**settings)
