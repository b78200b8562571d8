"""Curves over seeds: a mean line between the lowest and the highest seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from diffopd.report.methods.runs import Series
from diffopd.report.run.curve import centred_mean

Values = Float[np.ndarray, " points"]


@dataclass(frozen=True, kw_only=True)
class Band:
    """One method's curve.

    Attributes:
        x: Rounds or minutes.
        mean: Mean over seeds.
        low: Lowest seed.
        high: Highest seed.
        num_seeds: How many seeds.
    """

    x: Values
    mean: Values
    low: Values
    high: Values
    num_seeds: int


def band_by_round(seeds: Sequence[Series], *, window: int) -> Band | None:
    """Over the rounds in which every seed has a value; each seed's curve is a running mean.

    Args:
        seeds: One curve each.
        window: Values in the running mean.

    Returns:
        None if there is no such round.
    """
    curves = [dict(zip(seed.rounds, running_mean(seed.values, window), strict=True)) for seed in seeds]
    rounds = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not rounds:
        return None
    return _band(np.array(rounds, float), [[curve[number] for number in rounds] for curve in curves])


def band_by_minutes(
    seeds: Sequence[tuple[Series, Mapping[int, float]]], *, window: int, num_points: int = 200
) -> Band | None:
    """Over the minutes that every seed took, interpolated between the ends of rounds.

    Args:
        seeds: Each seed's curve, and the minutes at the end of each round.
        window: Values in the running mean.
        num_points: Minutes at which the seeds are compared; a single seed is drawn at its own.

    Returns:
        None if a seed has no minutes, or there is no minute that all have.
    """
    curves: list[tuple[Values, Values]] = []
    for series, minutes in seeds:
        means = running_mean(series.values, window)
        known = [place for place, number in enumerate(series.rounds) if number in minutes]
        if not known:
            return None
        curves.append((np.array([minutes[series.rounds[place]] for place in known]), means[known]))
    if not curves:
        return None
    if len(curves) == 1:
        return _band(curves[0][0], [curves[0][1]])
    first, last = max(ends[0] for ends, _ in curves), min(ends[-1] for ends, _ in curves)
    if last < first:
        return None
    grid = np.linspace(first, last, num_points)
    return _band(grid, [np.interp(grid, ends, means) for ends, means in curves])


def running_mean(values: Sequence[float], window: int) -> Values:
    """Mean of the ``window`` values around each, ``window`` odd; near the ends, of those there are.

    Few values are averaged over a third of them at most (:func:`fitting_window`): a curve of seven points
    under a window of nine would be a flat line whatever it does.

    Examples:
        >>> running_mean([0.0, 3.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 6.0], 3).tolist()
        [1.5, 3.0, 3.0, 2.0, 0.0, 0.0, 0.0, 2.0, 3.0]
        >>> running_mean([0.0, 3.0, 6.0], 9).tolist()
        [0.0, 3.0, 6.0]
    """
    return centred_mean(np.asarray(values, float), half=fitting_window(len(values), window) // 2)


def fitting_window(num_values: int, window: int) -> int:
    """The largest odd window of at most ``window`` that is at most a third of the values, at least 1.

    Examples:
        >>> [fitting_window(number, 9) for number in (2, 9, 11, 15, 27, 220)]
        [1, 3, 3, 5, 9, 9]
    """
    third = num_values // 3
    return max(1, min(window, third - (third % 2 == 0)))


def _band(x: Values, curves: Sequence[Sequence[float] | Values]) -> Band:
    values = np.array(curves, float)
    return Band(x=x, mean=values.mean(0), low=values.min(0), high=values.max(0), num_seeds=len(values))
