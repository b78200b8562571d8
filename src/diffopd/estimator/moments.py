"""Moments of a random gradient from a stream of draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class SampledValue:
    """A number found by sampling.

    Attributes:
        value: Its unbiased estimate.
        error: Monte-Carlo standard error of that.
    """

    value: float
    error: float

    @property
    def z(self) -> float:
        """``value`` in standard errors: how far from 0 it is; infinite for a value without error."""
        if self.value == 0:
            return 0.0
        return self.value / self.error if self.error > 0 else math.copysign(math.inf, self.value)


@final
class GradientMoments:
    """Mean and variance of a vector that is drawn again and again, compared with an expected mean.

    Keeps sums, in float64, of the draws' distances from ``expected``: a vector that never varies has variance
    exactly 0, and a small variance beside a large mean is not lost. Memory is a vector, and one more for
    the last draw and for each group size above 1.

    Attributes:
        count: Draws so far.
        group_sizes: Consecutive draws that are averaged, as given.
    """

    def __init__(
        self,
        expected: Float[Tensor, " size"],
        direction: Float[Tensor, " size"],
        *,
        group_sizes: Sequence[int],
    ) -> None:
        """Start with no draws.

        Args:
            expected: What the mean should be.
            direction: Along which the mean is also compared, see :meth:`share`.
            group_sizes: Consecutive draws that are averaged for :meth:`variance`; 1 = single draws.
        """
        self.count = 0
        self.group_sizes = tuple(group_sizes)
        self._expected = expected.double()
        self._unit = direction.double() / direction.double().square().sum().clamp_min(1e-300)
        self._sum = torch.zeros_like(self._expected)
        self._last = torch.zeros_like(self._expected)
        self._group_sums = {size: torch.zeros_like(self._expected) for size in group_sizes if size > 1}
        self._squares = dict.fromkeys([1, *group_sizes], 0.0)
        self._pair_squares = 0.0
        self._along = self._along_squares = 0.0

    def add(self, draw: Float[Tensor, " size"]) -> None:
        """Take one draw into account."""
        distance = draw.double() - self._expected
        self.count += 1
        self._sum += distance
        self._squares[1] += float(distance @ distance)
        along = float(distance @ self._unit)
        self._along += along
        self._along_squares += along**2
        if self.count % 2:
            self._last = distance
        else:
            self._pair_squares += float(distance @ self._last) ** 2
        for size, total in self._group_sums.items():
            total += distance
            if self.count % size == 0:
                self._squares[size] += float(total @ total) / size**2
                total.zero_()

    def variance(self, group_size: int) -> float:
        """Trace of the covariance of averages of ``group_size`` consecutive draws, from these averages."""
        groups = self.count // group_size
        assert groups > 1
        assert self.count % group_size == 0
        mean = self._sum / self.count
        return max(self._squares[group_size] - groups * float(mean @ mean), 0.0) / (groups - 1)

    def squared_mean(self) -> float:
        """Squared norm of the mean, without the bias of the sample mean's; near 0 it may fall below."""
        mean = self._expected + self._sum / self.count
        return float(mean @ mean) - self.variance(1) / self.count

    def squared_distance(self) -> SampledValue:
        """Squared distance of the mean from ``expected``: the mean product of two different draws' distances.

        Its error is that of a mean which is as expected: ``sqrt(2 tr(C^2) / (N (N - 1)))`` for N draws of
        covariance C, where ``tr(C^2)`` is the mean squared product of the pairs of consecutive draws.
        """
        pairs = self.count * (self.count - 1)
        product = (float(self._sum @ self._sum) - self._squares[1]) / pairs
        return SampledValue(product, math.sqrt(2 * self._pair_squares / (self.count // 2) / pairs))

    def share(self) -> SampledValue:
        """The mean's distance from ``expected`` along ``direction``, as a share of the latter's length."""
        mean = self._along / self.count
        spread = max(self._along_squares / self.count - mean**2, 0.0)
        return SampledValue(mean, math.sqrt(spread / (self.count - 1)))
