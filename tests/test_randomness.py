"""Draws are named: the same name gives the same numbers, whatever is drawn beside them."""

from __future__ import annotations

import pytest
import torch

from diffopd.randomness import derived_seed, normal_rows, uniform_rows


@pytest.mark.parametrize("rows", [normal_rows, uniform_rows])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_row_does_not_depend_on_its_neighbours(rows, shape):
    together = rows(5, "test", 7, [3, 1, 4], shape)
    assert together.shape == (3, *shape)
    assert torch.equal(together[2], rows(5, "test", 7, [4], shape)[0])
    assert not torch.equal(together[0], together[1])
    for other in (
        rows(6, "test", 7, [3], shape),
        rows(5, "best", 7, [3], shape),
        rows(5, "test", 8, [3], shape),
    ):
        assert not torch.equal(together[0], other[0])


def test_uniform_numbers_fill_the_unit_interval():
    numbers = uniform_rows(0, "test", 0, range(2000))
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.03  # 4.6 standard errors


def test_a_seed_is_the_same_on_every_machine():
    assert derived_seed(0, "rollout/start", 1, 2) == 5354455570301413491
