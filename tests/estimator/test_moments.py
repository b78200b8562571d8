"""Running moments against numpy-like batch formulas, and their errors against repetition."""

from __future__ import annotations

import math

import pytest
import torch

from diffopd.estimator import GradientMoments, SampledValue


def moments(draws, expected, *, group_sizes=(1, 4)):
    found = GradientMoments(expected, torch.ones_like(expected), group_sizes=group_sizes)
    for draw in draws:
        found.add(draw)
    return found


def test_by_hand():
    """Draws (1, 0), (3, 0), (1, 2), (3, 2) about (1, 1), expected mean (2, 0).

    Distances (-1, 0), (1, 0), (-1, 2), (1, 2): sum (0, 4); squared norms 1, 1, 5, 5. Products of two: all
    pairs ((0 + 16) - 12) / 12 = 1/3. Pairs in a row: -1 and 3, so tr(C^2) is 5 and the error
    sqrt(2 * 5 / 12). Along (1, 1) / 2: -0.5, 0.5, 0.5, 1.5.
    """
    draws = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
    found = moments(draws, torch.tensor([2.0, 0.0]), group_sizes=(1, 2))
    assert found.variance(1) == pytest.approx(4 / 3 + 4 / 3)
    assert found.variance(2) == pytest.approx(2.0)  # (2, 0) and (2, 2)
    assert found.squared_mean() == pytest.approx(5 - 8 / 3 / 4)
    distance = found.squared_distance()
    assert distance.value == pytest.approx(1 / 3)
    assert distance.error == pytest.approx(math.sqrt(10 / 12))
    share = found.share()
    assert share.value == pytest.approx(0.5)
    assert share.error == pytest.approx(math.sqrt((1 + 0 + 0 + 1) / 3 / 4))


def test_a_constant_has_no_variance_and_is_where_it_is_expected():
    value = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 1e6
    found = moments([value] * 8, value)
    assert (found.variance(1), found.variance(4)) == (0.0, 0.0)
    assert found.squared_distance() == SampledValue(0.0, 0.0)
    assert (found.squared_distance().z, found.share().z) == (0.0, 0.0)


def test_a_constant_elsewhere_is_infinitely_far():
    found = moments([torch.ones(3)] * 4, torch.zeros(3))
    assert found.share().value == pytest.approx(1.0)
    assert found.share().z == math.inf


def test_a_small_variance_beside_a_large_mean():
    noise = torch.randn(64, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = moments(1e6 + 1e-3 * noise, torch.full((20,), 1e6, dtype=torch.float64))
    assert found.variance(1) == pytest.approx(1e-6 * float(noise.var(0).sum()), rel=1e-4)


def test_errors_and_z_scores_are_calibrated():
    """Over 120 repetitions z has mean 0 and spread 1 at the expected mean, mean 1 one error beside it."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.5, 2.0, 40)
    draws, zero = scale * torch.randn(120, 32, 40, generator=generator), torch.zeros(40)
    distances, shares, shifted = [], [], []
    for repetition in draws:
        found = moments(repetition, zero)
        distances.append(found.squared_distance().z)
        shares.append(found.share().z)
        one_error = scale.norm() / 40 / 32**0.5  # of the mean along ones / 40, over 32 draws
        shifted.append(moments(repetition + one_error, zero).share().z)
    for found, centre in ((distances, 0.0), (shares, 0.0), (shifted, 1.0)):
        values = torch.tensor(found)
        assert abs(values.mean() - centre) < 4 / math.sqrt(120)
        assert 0.8 < values.std() < 1.2
