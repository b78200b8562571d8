"""Verdicts on claims: intervals, levels and areas by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_ind

sys.path.insert(0, str(Path(__file__).parent))

from run_folders import write_run

from diffopd.report.claims import difference_interval, judge, read_claims
from diffopd.report.measured import Measuring
from diffopd.report.methods import group_runs
from diffopd.report.runs import find_runs

MEASURING = Measuring(benchmark="mini", window=1)


def claim(**fields):
    entry = {
        "figure": "Figure 5",
        "text": "a beats b",
        "method": "a",
        "against": "b",
        "task": None,
        "level": None,
    }
    return read_claims({"one": {"metric": "final_score"} | entry | fields})[0]


def methods_of(folder, **rewards_and_scores):
    """Methods ``a``, ``b``: lists of (rewards of task ocr, score of task ocr), one per seed."""
    for name, seeds in rewards_and_scores.items():
        for seed, (rewards, score) in enumerate(seeds):
            scores = None if score is None else {"ocr": score}
            write_run(folder / name / f"seed{seed}", name, seed, {"train/reward/ocr": rewards}, scores=scores)
    return group_runs(find_runs([str(folder)]), {}, include_unfinished=False)


def scored(*scores):
    return [([0.0], score) for score in scores]


def test_pairs_of_one_seed_make_the_interval_of_their_differences():
    found = difference_interval({0: 0.8, 1: 0.9, 2: 1.0}, {0: 0.5, 1: 0.7, 2: 0.6}, 1)
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom at 97.5 %; differences 0.3, 0.2, 0.4
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half), abs=1e-6)
    assert found.num_pairs == 3
    worse = difference_interval({0: 0.8, 1: 0.9, 2: 1.0}, {0: 0.5, 1: 0.7, 2: 0.6}, -1)
    assert (worse.low, worse.high) == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-6)


def test_different_seeds_make_welchs_interval():
    found = difference_interval({0: 1.0, 1: 3.0, 2: 3.5}, {3: 10.0, 4: 14.0}, 1)
    expected = ttest_ind([1.0, 3.0, 3.5], [10.0, 14.0], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.num_pairs is None


def test_one_seed_of_a_side_makes_no_interval():
    assert difference_interval({0: 1.0}, {0: 0.0, 1: 0.1}, 1) is None


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ((0.8, 0.9, 1.0), (0.5, 0.7, 0.6), "holds"),
        ((0.5, 0.7, 0.6), (0.8, 0.9, 1.0), "does not hold here"),
        ((0.8, 0.6, 1.0), (0.5, 0.7, 0.6), "not decidable at 3 seeds"),  # 0.2 ± 4.30 * 0.153
        ((0.5, 0.5), (0.5, 0.5), "not decidable at 2 seeds"),
        ((0.8, 0.9, 1.0), (0.5,), "not decidable at 1 seed"),
        ((0.8, 0.9), (), "not decidable at 0 seeds"),
    ],
)
def test_verdicts(tmp_path, first, second, outcome):
    verdict = judge(claim(), methods_of(tmp_path, a=scored(*first), b=scored(*second)), MEASURING)
    assert verdict.outcome == outcome


def test_a_score_that_is_missing_is_named(tmp_path):
    methods = methods_of(tmp_path, a=scored(0.8, None), b=scored(0.5, 0.6))
    verdict = judge(claim(), methods, MEASURING)
    assert (verdict.outcome, verdict.reason) == (
        "not decidable at 2 seeds",
        "a, seed 1 has no scores on mini",
    )


def test_area_under_the_reward_over_the_rounds_both_have(tmp_path):
    # Rounds 1 to 3: (0 + 1) / 2 and (1 + 3) / 2 are 2.5 in two rounds; (1 + 1) / 2 twice.
    methods = methods_of(tmp_path, a=[([0.0, 1.0, 3.0, 9.0], None)] * 2, b=[([1.0, 1.0, 1.0], None)] * 2)
    verdict = judge(claim(metric="reward_area"), methods, MEASURING)
    assert verdict.method.values == {0: 1.25, 1: 1.25}
    assert verdict.against.values == {0: 1.0, 1: 1.0}
    assert verdict.outcome == "holds"


def test_rounds_and_minutes_to_a_share_of_the_others_rise(tmp_path):
    slow = [([0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0], None), ([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0], None)]
    fast = [([0.0, 0.8, 1.0], None), ([0.0, 0.9, 1.0], None)]
    methods = methods_of(tmp_path, a=fast, b=slow)
    verdict = judge(claim(metric="rounds_to_level", level=0.8), methods, MEASURING)
    assert verdict.level == pytest.approx(0.8)
    assert (verdict.method.values, verdict.against.values) == ({0: 2, 1: 2}, {0: 6, 1: 6})
    assert (verdict.ratio, verdict.outcome) == (3.0, "holds")
    assert verdict.difference.mean == 4
    minutes = judge(claim(metric="minutes_to_level", level=0.8), methods, MEASURING)
    assert minutes.method.values == {0: 2.0, 1: 2.0}  # a round takes a minute


def test_what_never_reaches_the_level_can_refute_and_not_hold(tmp_path):
    never = [([0.0, 0.1], None), ([0.0, 0.2], None)]  # counted with two rounds, which is too few
    reaches = [([0.0, 0.1, 0.2, 1.0], None), ([0.0, 0.1, 0.3, 1.0], None)]
    methods = methods_of(tmp_path, a=never, b=reaches)
    verdict = judge(claim(metric="rounds_to_level", level=1.0), methods, MEASURING)
    assert verdict.method.unreached == [0, 1]
    assert verdict.outcome == "not decidable at 2 seeds"
    assert verdict.reason == "seeds 0, 1 of a never reached the level"


def test_a_reward_that_does_not_rise_gives_no_level(tmp_path):
    methods = methods_of(tmp_path, a=[([0.0, 1.0], None)] * 2, b=[([1.0, 0.5], None)] * 2)
    verdict = judge(claim(metric="rounds_to_level", level=0.9), methods, MEASURING)
    assert verdict.reason == "the reward of b does not rise (1.000 to 0.500)"


def test_runs_of_one_name_with_several_settings_are_no_method_of_that_name(tmp_path):
    for seed, noise in enumerate((0.0, 0.7)):
        write_run(
            tmp_path / str(seed),
            "a",
            0,
            {"train/reward/ocr": [1.0]},
            settings={"sampler": {"noise_level": noise}},
        )
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    reason = judge(claim(), methods, MEASURING).reason
    assert reason.startswith("a is the name of runs with different settings: a, sampler.noise_level=0.0; a, ")
    assert reason.endswith("no run is called b")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"metric": "speed"}, "claims.one.metric=speed must be one of final_score"),
        ({"metric": "rounds_to_level"}, r"claims.one.level=None must be in \(0, 1\]"),
        ({"level": 0.5}, "claims.one.level=0.5 must be null for final_score"),
        ({"kind": "x"}, "claims.one must have figure, text, .* and has .*kind"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        claim(**entry)
