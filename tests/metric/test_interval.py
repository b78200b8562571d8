import numpy as np
import pytest
import torch

from diffopd.metric.interval import Interval, bootstrap_interval, paired_difference_interval


def test_mean_and_normal_width():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std(correction=0).item() / 20
    assert interval.mean == pytest.approx(values.mean().item())
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.1)


def test_same_seed_same_interval_and_a_lower_level_is_narrower():
    values = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_covers_as_often_as_it_claims():
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(200):
        interval = bootstrap_interval(torch.from_numpy(rng.random(60)), num_resamples=300, seed=i)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99  # 95 % within four standard errors of 200 trials


def test_strata_average_means_of_strata_and_resample_within_them():
    values = torch.tensor([0.0] * 8 + [1.0, 3.0])
    strata = torch.tensor([0] * 8 + [1] * 2)
    # The second stratum's mean is 1, 2 or 3, with probabilities of a quarter, a half and a quarter.
    assert bootstrap_interval(values, strata=strata) == Interval(1.0, 0.5, 1.5)


@pytest.mark.parametrize(
    ("values", "strata", "mean"),
    [([0.3], [0], 0.3), ([0.0, 0.2, 0.4, 1.0], [0, 0, 0, 1], 0.6), ([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], 0.5)],
    ids=["one value", "one value of a stratum", "nothing varies"],
)
def test_bounds_that_values_cannot_tell_are_not_known(values, strata, mean):
    interval = bootstrap_interval(torch.tensor(values), strata=torch.tensor(strata))
    assert (interval.low, interval.high) == (None, None)
    assert interval.mean == pytest.approx(mean)
    assert str(interval).endswith("[not known]")


def test_pairing_removes_what_prompts_share():
    generator = torch.Generator().manual_seed(2)
    hard = torch.randn(100, generator=generator)
    ours, theirs = hard + 0.1 + 0.01 * torch.randn(100, generator=generator), hard
    gain = paired_difference_interval(ours, theirs)
    assert 0.09 < gain.low < 0.1 < gain.high < 0.11
    assert bootstrap_interval(ours).low < bootstrap_interval(theirs).high  # unpaired they overlap


def test_refusals():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(torch.zeros(0))
    with pytest.raises(ValueError, match="got 3 and 2"):
        paired_difference_interval(torch.zeros(3), torch.zeros(2))


def test_reads_well():
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
