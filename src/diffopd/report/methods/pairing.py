"""Whether runs of one seed share something: only then does a comparison seed by seed gain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as fisher_f


@dataclass(frozen=True, kw_only=True)
class SeedEffect:
    """What the seeds that several methods have in common say about them, by a two-way analysis of variance.

    Attributes:
        num_methods: Methods.
        num_seeds: Seeds that all of them have.
        unpaired: Variance of the difference of two methods' runs, taken as independent.
        paired: The same of two runs of one seed.
        correlation: Of two methods over seeds, ``1 - paired / unpaired``; below 0 if pairs only add noise.
        p: p-value of no common effect of seeds (F test).
    """

    num_methods: int
    num_seeds: int
    unpaired: float
    paired: float
    correlation: float
    p: float

    @property
    def pairs_help(self) -> bool:
        """The rule: pairs are used where they lower the variance and chance alone would not, at p < .05."""
        return self.paired < self.unpaired and self.p < 0.05


def seed_effect(methods: Sequence[Mapping[int, float]]) -> SeedEffect | None:
    """Analyse the values of methods that ran with the same seeds.

    Seeds fix prompts and noise, so runs of one seed may be good or bad together. Pairing removes that common
    part and costs half of the degrees of freedom.

    Args:
        methods: For each method, seed -> value.

    Returns:
        None below two methods or two common seeds, or if nothing varies.

    Examples:
        >>> found = seed_effect([{0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 3.0, 2: 4.1}])
        >>> round(found.correlation, 3), found.pairs_help
        (0.998, True)
    """
    if len(methods) < 2:
        return None
    shared = sorted(set.intersection(*(set(values) for values in methods)))
    if len(shared) < 2:
        return None
    table = np.array([[values[seed] for seed in shared] for values in methods])
    own = table - table.mean(axis=1, keepdims=True)  # without the methods' means
    common = own.mean(axis=0)
    rows, columns = table.shape
    within = float(np.square(own).sum()) / (rows * (columns - 1))
    rest = float(np.square(own - common).sum()) / ((rows - 1) * (columns - 1))
    if within == 0:
        return None
    of_seeds = rows * float(np.square(common).sum()) / (columns - 1)
    ratio = of_seeds / rest if rest > 0 else math.inf
    return SeedEffect(
        num_methods=rows,
        num_seeds=columns,
        unpaired=2 * within,
        paired=2 * rest,
        correlation=1 - rest / within,
        p=float(fisher_f.sf(ratio, columns - 1, (rows - 1) * (columns - 1))),
    )
