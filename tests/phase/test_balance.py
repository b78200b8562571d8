from __future__ import annotations

import json
import math

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.phase.balance import Balance, Equal, RemainingGap, bounded


def remaining_gap(**settings):
    chosen = {"decay": 0.0, "power": 1.0, "smallest": 0.1, "largest": 10.0, "update_every_n_rounds": 5}
    return RemainingGap(**{**chosen, **settings})


def test_equal_weights_stay_equal():
    balance = Equal()
    balance.observe({"a": 1.0, "b": 100.0})
    assert balance.weights(("a", "b")) == {"a": 1.0, "b": 1.0}
    assert not any(balance.wants_gaps(number) for number in range(20))


def test_before_anything_is_seen_all_tasks_weigh_the_same():
    assert remaining_gap().weights(("a", "b")) == {"a": 1.0, "b": 1.0}


def test_weights_follow_the_share_of_the_first_gap_that_is_left():
    """a has 3/4 of its gap left, b 1/4, whatever their sizes."""
    balance = remaining_gap()
    balance.observe({"a": 0.4, "b": 80.0})
    assert balance.weights(("a", "b")) == {"a": 1.0, "b": 1.0}
    balance.observe({"a": 0.3, "b": 20.0})
    assert balance.weights(("a", "b")) == pytest.approx({"a": 1.5, "b": 0.5})
    assert balance.weights(("b",)) == {"b": 1.0}


@pytest.mark.parametrize(
    ("power", "expected"), [(0, (1.0, 1.0)), (2, (1.8, 0.2)), (0.5, (1.2679492, 0.7320508))]
)
def test_the_power_makes_weights_more_or_less_extreme(power, expected):
    """Shares left are 3/4 and 1/4: 9 to 1 squared, sqrt(3) to 1 under the root."""
    balance = remaining_gap(power=power)
    balance.observe({"a": 1.0, "b": 1.0})
    balance.observe({"a": 0.75, "b": 0.25})
    assert tuple(balance.weights(("a", "b")).values()) == pytest.approx(expected, abs=1e-7)


def test_gaps_are_smoothed():
    """0.75 * 1 + 0.25 * 0.2 = 0.8, then 0.75 * 0.8 + 0.25 * 0.2 = 0.65."""
    balance = remaining_gap(decay=0.75)
    for gap in (1.0, 0.2, 0.2):
        balance.observe({"a": gap, "b": 1.0})
    found = balance.weights(("a", "b"))
    assert found["a"] / found["b"] == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("raw", "bounds", "expected"),
    [
        ([1.0, 3.0], (0.5, 2.0), [0.5, 1.5]),
        ([1.0, 1.0, 10.0], (0.1, 2.0), [0.5, 0.5, 2.0]),  # the largest is cut, the others make up for it
        ([0.0, 1.0, 2.0], (0.4, 2.0), [0.4, 2.6 / 3, 5.2 / 3]),
        ([0.0, 0.0, 1.0], (0.5, 1.2), [0.9, 0.9, 1.2]),
        ([1.0, 9.0], (1.0, 2.0), [1.0, 1.0]),
        ([1.0, 9.0], (0.5, 1.0), [1.0, 1.0]),
        ([0.0, 0.0], (0.5, 2.0), [1.0, 1.0]),
    ],
)
def test_weights_keep_mean_1_within_their_bounds(raw, bounds, expected):
    assert bounded(raw, *bounds) == pytest.approx(expected, abs=1e-9)


def test_the_first_gap_is_the_mean_of_several_observations():
    """a: (0.2 + 0.6) / 2 = 0.4, of which 0.1 is left; b: all of 1. Until then they weigh the same."""
    balance = remaining_gap(num_first=2)
    balance.observe({"a": 0.2, "b": 1.0})
    assert balance.weights(("a", "b")) == {"a": 1.0, "b": 1.0}
    resumed = remaining_gap(num_first=2)
    resumed.load_state_dict(json.loads(json.dumps(balance.state_dict())))
    for gaps in ({"a": 0.6, "b": 1.0}, {"a": 0.1, "b": 1.0}):
        resumed.observe(gaps)
    assert resumed.weights(("a", "b")) == pytest.approx({"a": 0.4, "b": 1.6})


def test_the_average_starts_from_the_first_gap():
    """First gap (0.2 + 0.6) / 2 = 0.4 in either order, then 0.9 * 0.4 + 0.1 * 0.2 = 0.38: 0.95 is left."""
    for first, second in ((0.2, 0.6), (0.6, 0.2)):
        balance = remaining_gap(decay=0.9, num_first=2)
        for gap in (first, second, 0.2):
            balance.observe({"a": gap, "b": 1.0})
        assert balance.weights(("a", "b")) == pytest.approx({"a": 1.9 / 1.95, "b": 2 / 1.95})


def test_a_state_of_before_has_its_first_gap():
    balance = remaining_gap()
    balance.load_state_dict({"first": {"a": 0.4, "b": 80.0}, "smoothed": {"a": 0.3, "b": 20.0}})
    assert balance.weights(("a", "b")) == pytest.approx({"a": 1.5, "b": 0.5})


def test_a_task_that_begins_with_no_gap_counts_in_full_until_it_has_one():
    balance = remaining_gap()
    balance.observe({"a": 0.0, "b": 1.0})
    balance.observe({"a": 2.0, "b": 0.5})
    assert balance.weights(("a", "b")) == pytest.approx({"a": 4 / 3, "b": 2 / 3})


def test_gaps_are_wanted_in_the_first_round_and_every_few():
    assert [number for number in range(12) if remaining_gap().wants_gaps(number)] == [0, 5, 10]


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one():
    whole, resumed = remaining_gap(decay=0.5), remaining_gap(decay=0.5)
    whole.observe({"a": 1.0, "b": 2.0})
    whole.observe({"a": 0.7, "b": 0.2})
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for balance in (whole, resumed):
        balance.observe({"a": 0.3, "b": 0.1})
    assert resumed.weights(("a", "b")) == whole.weights(("a", "b"))
    assert whole.weights(("a", "b")) != {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("gap", [math.nan, math.inf, -1.0])
def test_an_impossible_gap_is_refused_and_changes_nothing(gap):
    balance = remaining_gap()
    with pytest.raises(ValueError, match=r"the velocity gap of task b is .*; the student has diverged"):
        balance.observe({"a": 1.0, "b": gap})
    assert balance.state_dict() == {"first": {}, "counted": {}, "smoothed": {}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.0}, r"balance.decay=1.0 must be in \[0, 1\)"),
        ({"power": -1}, r"balance.power=-1 must be"),
        ({"smallest": 0}, r"balance.smallest=0 must be in \(0, 1\]"),
        ({"smallest": 1.1}, r"balance.smallest=1.1 must be in \(0, 1\]"),
        ({"largest": 0.9}, r"balance.largest=0.9 finite and at least 1"),
        ({"update_every_n_rounds": 0}, r"balance.update_every_n_rounds=0 must be at least 1"),
        ({"num_first": 0}, r"balance.num_first=0 must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        remaining_gap(**settings)


@pytest.mark.parametrize("choice", ["equal", "remaining_gap"])
def test_every_choice_meets_the_contract(conf_dir, choice):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        balance = instantiate(compose(f"balance/{choice}").balance)
    assert isinstance(balance, Balance)
    balance.observe({"a": 1.0, "b": 1.0, "c": 1.0})
    balance.observe({"a": 0.9, "b": 0.1, "c": 0.0})
    state = json.loads(json.dumps(balance.state_dict()))
    found = balance.weights(("a", "b", "c"))
    assert sum(found.values()) == pytest.approx(3.0)
    assert found["a"] >= found["b"] >= found["c"] > 0
    balance.load_state_dict(state)
    assert balance.weights(("a", "b", "c")) == found
