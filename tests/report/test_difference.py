"""Intervals and p-values of differences: by hand, and beside scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp, ttest_ind

from diffopd.report.methods.difference import PromptScores, difference_of, half_interval, holm, spread_text

FIRST, SECOND = {0: 0.8, 1: 0.9, 2: 1.0}, {0: 0.5, 1: 0.7, 2: 0.6}


def test_welch_is_the_default_and_scipy_s():
    found = difference_of(FIRST, SECOND, 1)
    expected = ttest_ind(list(FIRST.values()), list(SECOND.values()), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, expected.pvalue))
    half = 2.776445 * (2 * 0.01 / 3) ** 0.5  # equal variances of 0.01: t of 4 degrees of freedom
    assert (found.mean, found.high) == pytest.approx((0.3, 0.3 + half), abs=1e-6)
    assert found.num_pairs is None
    uneven = difference_of({0: 1.0, 1: 3.0, 2: 3.5}, {3: 10.0, 4: 14.0}, -1)
    expected = ttest_ind([10.0, 14.0], [1.0, 3.0, 3.5], equal_var=False)
    assert (uneven.mean, uneven.p) == pytest.approx((9.5, expected.pvalue))


def test_pairs_of_one_seed_on_request():
    found = difference_of(FIRST, SECOND, 1, test="paired")
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom at 97.5 %; differences 0.3, 0.2, 0.4
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half), abs=1e-6)
    assert found.p == pytest.approx(ttest_1samp([0.3, 0.2, 0.4], 0).pvalue)
    assert found.num_pairs == 3
    worse = difference_of(FIRST, SECOND, -1, test="paired")
    assert (worse.low, worse.high) == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-6)


def test_one_seed_of_a_side_or_no_variation_makes_no_interval():
    assert difference_of({0: 1.0}, {0: 0.0, 1: 0.1}, 1) is None
    assert difference_of({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0}, 1) is None


def test_seeds_that_agree_to_the_digit_have_no_known_interval():
    assert half_interval([0.5, 0.5]) is None
    assert spread_text([0.5, 0.5], 3) == " ±?"
    assert spread_text([0.5], 3) == ""


def test_equal_differences_of_coarse_values_have_the_width_of_the_steps():
    ours, theirs = {0: 100, 1: 120, 2: 140}, {0: 120, 1: 140, 2: 160}
    found = difference_of(ours, theirs, -1, test="paired", resolution=20)
    assert found.low == pytest.approx(20 - 4.302653 * 4.714045, abs=1e-4)  # sqrt(2 * 400 / 12 / 3)
    assert found.low < 0
    welch = difference_of(ours, theirs, -1, resolution=20)  # variance 400 of each side is above 400 / 12
    assert welch.high == pytest.approx(20 + 2.776445 * (2 * 400 / 3) ** 0.5, abs=1e-4)


def test_two_one_sided_tests():
    found = difference_of(FIRST, SECOND, 1, margin=0.4)
    ours, theirs = np.array(list(FIRST.values())), list(SECOND.values())
    low = ttest_ind(ours + 0.4, theirs, equal_var=False, alternative="greater")
    high = ttest_ind(ours - 0.4, theirs, equal_var=False, alternative="less")
    assert found.p_equivalent == pytest.approx(max(low.pvalue, high.pvalue))
    assert difference_of(FIRST, SECOND, 1).p_equivalent is None


def test_prompts_add_the_variance_of_their_differences_tag_by_tag():
    ours = PromptScores(texts=tuple("abcd"), strata=(0, 0, 1, 1), values=np.array([1.0, 0.0, 0.5, 0.5]))
    theirs = PromptScores(texts=tuple("abcd"), strata=(0, 0, 1, 1), values=np.array([0.0, 0.0, 0.5, 0.3]))
    found = difference_of(FIRST, SECOND, 1, prompts=[(ours, theirs), (ours, theirs)])
    # Differences 1, 0 (variance 0.5 over 2 prompts) and 0, 0.2 (0.02 over 2): each of two tags of two tasks
    # has a weight of 1 / 16. Welch's own part is 0.02 / 3 with 4 degrees of freedom, 0.01 / 3 of each side.
    parts = [(0.01 / 3, 2), (0.01 / 3, 2), *[(0.25 / 16, 1), (0.01 / 16, 1)] * 2]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    assert freedom == pytest.approx(3.067, abs=0.001)
    half = (found.high - found.low) / 2
    assert half == pytest.approx(student_t.ppf(0.975, freedom) * variance**0.5)
    assert found.over_prompts


@pytest.mark.parametrize("spread", [0.2, 0.0])
def test_the_interval_covers_a_true_difference_with_its_prompts_drawn(spread):
    """Coverage over 400 draws of seeds and prompts; by chance 0.93 to 0.97 for a true 0.95.

    ``spread``: how much a method is better on some prompts than on others; 0 for none, where all that a
    prompt's difference varies by is in the seeds already.
    """
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        prompt, sides = rng.normal(0, 0.3, 30), []
        for _side in range(2):
            own = rng.normal(0, spread, 30)
            sides.append(
                [0.5 + prompt + own + rng.normal(0, 0.05) + rng.normal(0, 0.3, 30) for _ in range(3)]
            )
        scores = [
            PromptScores(
                texts=("p",) * 30,
                strata=(0,) * 30,
                values=np.mean(side, axis=0),
                over_seeds=np.var(side, axis=0, ddof=1),
            )
            for side in sides
        ]
        first, second = ({seed: float(run.mean()) for seed, run in enumerate(side)} for side in sides)
        found = difference_of(first, second, 1, prompts=[(scores[0], scores[1])])
        covered += found.low <= 0 <= found.high
    assert covered / 400 >= 0.93


def test_holm():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (below the one before, so 0.06), 0.9 * 1.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_half_of_an_interval_over_seeds():
    assert half_interval([0.4, 0.6]) == pytest.approx(12.7062 * 0.1, abs=1e-4)
    assert half_interval([0.4]) is None


def test_where_prompts_are_known_from_the_seeds_alone_no_degree_of_freedom_is_lost():
    """Seeds that agree, and prompts that differ by no more than by chance: the error is not 0 for that."""
    rng, texts = np.random.default_rng(0), ("p",) * 64
    values = 0.5 + 0.1 * rng.normal(size=(2, 64))
    differences = values[0] - values[1]
    drawn = float(differences.var(ddof=1)) / 64
    each = np.full(64, 0.98 * drawn * 64)  # of one side, over two seeds: nearly all that prompts differ by
    scores = [PromptScores(texts=texts, strata=(0,) * 64, values=side, over_seeds=each) for side in values]
    first, second = {0: 0.5, 1: 0.502}, {0: 0.5, 1: 0.502}
    found = difference_of(first, second, 1, prompts=[(scores[0], scores[1])])
    of_seeds = 2 * 0.002**2 / 2 / 2
    spread = 2 * (of_seeds / 2) ** 2 + drawn**2 / 63
    assert (of_seeds + 0.02 * drawn) ** 2 / spread < 1
    variance = of_seeds + drawn
    freedom = variance**2 / spread
    assert freedom > 60
    half = (found.high - found.low) / 2
    assert half == pytest.approx(student_t.ppf(0.975, freedom) * variance**0.5)
