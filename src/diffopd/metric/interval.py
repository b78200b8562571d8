"""Bootstrap intervals of means and of paired differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds it likely lies between, None where these cannot be known."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} [not known]"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    values: Float[Tensor, " sample"],
    *,
    strata: Shaped[Tensor, " sample"] | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean.

    Args:
        values: One per image; give one per prompt where several images share a prompt.
        strata: Labels within which to resample. The mean is then the mean of the strata's means, as
            GenEval's overall score is the mean over tags.
        level: Probability the interval claims to cover.
        num_resamples: Resamples drawn; 2,000 fix the bounds to about a hundredth of their distance.
        seed: Of the resampling.

    Returns:
        The mean with its bounds. These are not known where a stratum has one value only, which says nothing
        of how values vary, or where no two values of a stratum differ: resampling would give bounds without
        any distance, as if the mean were certain.

    Raises:
        ValueError: If there are no values.
    """
    x = values.detach().cpu().double().numpy()
    if len(x) == 0:
        raise ValueError("an interval needs at least one value, got none; was the metric updated?")
    labels = np.zeros(len(x), dtype=int) if strata is None else strata.cpu().numpy()
    groups = [x[labels == label] for label in np.unique(labels)]
    mean = float(np.mean([group.mean() for group in groups]))
    if min(map(len, groups)) < 2 or all((group == group[0]).all() for group in groups):
        return Interval(mean, None, None)
    rng = np.random.default_rng(seed)
    resampled = np.mean([_resampled_means(group, num_resamples, rng) for group in groups], axis=0)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def paired_difference_interval(
    ours: Float[Tensor, " sample"],
    theirs: Float[Tensor, " paired"],
    *,
    strata: Shaped[Tensor, " sample"] | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of ``mean(ours - theirs)`` over the same prompts and seeds, in the same order.

    Raises:
        ValueError: If the two differ in length.
    """
    if ours.shape != theirs.shape:
        raise ValueError(
            f"paired values must be of the same prompts, got {len(ours)} and {len(theirs)}; "
            "score both on one file"
        )
    difference = ours.double() - theirs.to(ours.device).double()
    return bootstrap_interval(difference, strata=strata, level=level, num_resamples=num_resamples, seed=seed)


def _resampled_means(
    values: NDArray[np.float64], number: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    means = np.empty(number)
    for start in range(0, number, 256):  # bounds memory at 256 resamples
        count = min(256, number - start)
        means[start : start + count] = values[rng.integers(len(values), size=(count, len(values)))].mean(1)
    return means
