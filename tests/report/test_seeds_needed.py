"""Seeds that a comparison needs: by hand, and beside simulated verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f_oneway
from scipy.stats import t as student_t

from diffopd.report.methods.difference import PromptScores, difference_of
from diffopd.report.methods.pairing import seed_effect
from diffopd.report.methods.seeds_needed import (
    MOST,
    ErrorParts,
    error_parts,
    pooled,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
)


def test_seeds_for_a_difference_of_one_standard_deviation_are_those_of_any_textbook():
    found = seeds_needed(ErrorParts(seeds=2.0), 1.0)  # 17 a side at 80 % power and 5 %, two-sided
    assert found.difference == 17
    # Two one-sided tests at 0: n = 2 (1.645 + 1.2816)**2 = 17.1 by normal theory, more with Student's t.
    assert found.equivalence == 18
    more = seeds_needed(ErrorParts(seeds=2.0), 1.0, num_tests=19)
    # 2 (z(1 - .05 / 38) + .8416)**2 = 29.7 and 2 (z(1 - .05 / 19) + 1.2816)**2 = 33.2 by normal theory.
    assert 30 <= more.difference <= 34
    assert 34 <= more.equivalence <= 38


def test_no_number_of_seeds_shrinks_the_part_of_the_prompts():
    parts = ErrorParts(seeds=0.0002, prompts=0.0002, prompts_freedom=60)
    found = seeds_needed(parts, 0.02)
    assert (found.difference, found.equivalence, found.decide) == (None, None, None)
    larger = parts.with_benchmark(prompts=9, images=9)
    assert larger.prompts == pytest.approx(0.0002 / 9)
    assert seeds_needed(larger, 0.02).decide < 10
    assert parts.error(MOST) == pytest.approx((0.0002 / MOST + 0.0002) ** 0.5)


def test_more_images_shrink_what_comes_from_images_alone():
    parts = ErrorParts(seeds=5.0, images=4.0).with_benchmark(prompts=2, images=8)
    assert (parts.seeds, parts.images) == (1.5, 0.5)
    assert ErrorParts(seeds=3.0, images=4.0).with_benchmark(prompts=1, images=4).seeds == 1.0


def test_parts_of_an_error_by_hand():
    ours = PromptScores(
        texts=("a", "b"), strata=(0, 0), values=np.array([1.0, 0.0]), over_seeds=np.array([0.1, 0.3])
    )
    theirs = PromptScores(
        texts=("a", "b"), strata=(0, 0), values=np.array([0.0, 0.0]), over_seeds=np.array([0.0, 0.2])
    )
    sides = [[0.4, 0.6], [0.0, 0.2]]
    parts = error_parts(sides, [(ours, theirs)], resolution=0.0, paired=False)
    assert parts.seeds == pytest.approx(0.02 + 0.02)
    # Mean over prompts of the variances, over two prompts: 0.2 / 2 and 0.1 / 2.
    assert parts.images == pytest.approx(0.15)
    # Differences 1 and 0: 0.5 over two prompts, less the images' part over two seeds.
    assert parts.prompts == pytest.approx(0.25 - 0.075)
    found = difference_of(dict(enumerate(sides[0])), dict(enumerate(sides[1])), 1, prompts=[(ours, theirs)])
    half = student_t.ppf(0.975, freedom := parts.freedom(2)) * parts.error(2)
    spread = 0.02**2 / 2 + 0.25**2 / 1
    assert 0.195**2 / spread < 1  # so the images' part is not taken away
    assert freedom == pytest.approx(0.27**2 / spread)
    assert (found.high - found.low) / 2 == pytest.approx(half)
    paired = error_parts(sides, [(ours, theirs)], resolution=0.6, paired=True)
    assert (paired.seeds, paired.prompts) == pytest.approx((2 * 0.03, 0.25))


def test_pooled_variances_are_means_and_the_rest_is_its_own():
    first, second = pooled([ErrorParts(seeds=1.0, prompts=0.5), ErrorParts(seeds=3.0, images=1.0)])
    assert (first.seeds, first.images, first.prompts) == (2.0, 0.5, 0.5)
    assert (second.seeds, second.prompts) == (2.0, 0.0)


@pytest.mark.parametrize("seeds", [5, 12])
def test_powers_are_those_of_simulated_verdicts(seeds):
    """2,000 draws of two methods with variance 1: chance moves a share by .03 at most, at three errors."""
    rng = np.random.default_rng(0)
    parts, level, margin = ErrorParts(seeds=2.0), 0.05, 1.5
    draws = rng.normal(size=(2000, 2, seeds))
    error = np.sqrt(draws.var(axis=2, ddof=1).sum(axis=1) / seeds)
    shift = draws.mean(axis=2)[:, 0] - draws.mean(axis=2)[:, 1]
    freedom = 2 * (seeds - 1)
    beyond = (shift + 1.0) / error > student_t.ppf(1 - level / 2, freedom)
    assert power_of_difference(parts, seeds, 1.0, level) == pytest.approx(beyond.mean(), abs=0.03)
    inside = (margin - np.abs(shift)) / error > student_t.ppf(1 - level, freedom)
    # The error is taken as known here, so that few seeds look a little better or worse than they are.
    assert power_of_equivalence(parts, seeds, margin, level) == pytest.approx(inside.mean(), abs=0.06)


def test_what_seeds_have_in_common():
    alike = seed_effect([{0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.1, 1: 3.0, 2: 4.0}, {0: 0.0, 1: 1.0, 2: 2.1}])
    assert alike.pairs_help
    assert alike.correlation > 0.99
    assert alike.paired < alike.unpaired
    apart = seed_effect([{0: 1.0, 1: 2.0}, {0: 2.0, 1: 1.0}])
    assert apart.correlation == pytest.approx(-1)  # each is the other's opposite
    assert (apart.unpaired, apart.paired) == pytest.approx((1.0, 2.0))
    assert not apart.pairs_help
    assert seed_effect([{0: 1.0, 1: 2.0}]) is None
    assert seed_effect([{0: 1.0, 1: 2.0}, {2: 1.0, 3: 2.0}]) is None
    assert seed_effect([{0: 1.0, 1: 1.0}, {0: 2.0, 1: 2.0}]) is None


def test_the_p_value_of_a_common_effect_is_that_of_an_analysis_of_variance():
    methods = [{0: 0.2, 1: 0.5, 2: 0.4}, {0: 0.1, 1: 0.6, 2: 0.2}]
    found = seed_effect(methods)
    table = np.array([list(values.values()) for values in methods])
    centred = table - table.mean(axis=1, keepdims=True)
    # One-way on centred values has the F ratio's numerator; the denominator has one degree of freedom per
    # method less: 3 * (2 - 1) there, 2 * 1 here.
    one_way = f_oneway(*centred.T).statistic * 2 / 3
    rest = np.square(centred - centred.mean(axis=0)).sum() / 2
    assert found.paired == pytest.approx(2 * rest)
    assert one_way == pytest.approx(2 * np.square(centred.mean(axis=0)).sum() / 2 / rest)
