"""When rewards look hacked: what is trained on rises while something that is not falls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from math import inf, nan
from statistics import fmean
from typing import final


@dataclass(frozen=True)
class Evaluation:
    """Metrics averaged over a window of rounds.

    Attributes:
        first_round: Counted from 1.
        last_round: The same.
        means: metric -> its mean over those of the rounds that logged it.
    """

    first_round: int
    last_round: int
    means: Mapping[str, float]

    @staticmethod
    def of(rounds: Sequence[Mapping[str, float]], last_round: int) -> Evaluation:
        """The evaluation of some rounds in a row, given the metrics of each."""
        names = dict.fromkeys(name for metrics in rounds for name in metrics)
        means = {name: fmean(metrics[name] for metrics in rounds if name in metrics) for name in names}
        return Evaluation(last_round - len(rounds) + 1, last_round, means)

    def __str__(self) -> str:
        return f"rounds {self.first_round}-{self.last_round}"


@final
@dataclass(frozen=True)
class HackingRule:
    """Compares evaluations: did a watched metric fall while a trained one rose?

    Attributes:
        trained: Patterns such as ``train/reward/*`` of the metrics that are trained on.
        watched: Patterns of the metrics that must not fall meanwhile.
        min_rise: Least rise that counts, in the metric's units, at least 0; 0 for any.
        min_fall: Least fall that counts, in the same way.
    """

    trained: tuple[str, ...]
    watched: tuple[str, ...]
    min_rise: float
    min_fall: float

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a number is negative or not finite, or there is no pattern.
        """
        for name in ("trained", "watched"):
            if not getattr(self, name):
                raise ValueError(
                    f"callbacks.reward_guard.{name} is empty; it needs a metric, or a pattern of them"
                )
        for name in ("min_rise", "min_fall"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(
                    f"callbacks.reward_guard.{name} must be a finite number of at least 0, "
                    f"got {getattr(self, name)}"
                )

    def check_matches(self, metrics: Mapping[str, float]) -> None:
        """Refuse patterns that see nothing: the guard would look as if nothing was wrong.

        Raises:
            ValueError: If a pattern matches none of a round's metrics.
        """
        for name in ("trained", "watched"):
            for pattern in getattr(self, name):
                if not _matching(metrics, [pattern]):
                    raise ValueError(
                        f"callbacks.reward_guard.{name}: no logged metric matches {pattern}; there are "
                        f"{', '.join(sorted(metrics)) or 'none'}. Name some of these, or leave the guard out"
                    )

    def chosen(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Those of a round's metrics that are trained on or watched."""
        return {name: metrics[name] for name in _matching(metrics, [*self.trained, *self.watched])}

    def risen(self, before: Evaluation, after: Evaluation) -> list[str]:
        """Trained metrics that rose from one evaluation to another."""
        rises = {name: -_fall(name, before, after) for name in _matching(after.means, self.trained)}
        return [name for name, rise in rises.items() if rise > 0 and rise >= self.min_rise]

    def fallen(self, evaluations: Sequence[Evaluation]) -> list[str]:
        """Watched metrics that fell, while a trained one rose, from every evaluation to the next."""
        names = _matching(evaluations[-1].means, self.watched)
        for before, after in pairwise(evaluations):
            falls = {name: _fall(name, before, after) for name in names}
            names = [name for name, fall in falls.items() if fall > 0 and fall >= self.min_fall]
            names = names if self.risen(before, after) else []
        return names

    def report(self, evaluations: Sequence[Evaluation]) -> str:
        """What rose and what fell, from what to what, a line each."""
        risen = dict.fromkeys(name for pair in pairwise(evaluations) for name in self.risen(*pair))
        lines = [f"From {evaluations[0]} to {evaluations[-1]}, in means over the rounds:"]
        for verb, names in (("rose", risen), ("fell", self.fallen(evaluations))):
            for name in names:
                means = [f"{e.means[name]:.4g}" for e in evaluations if name in e.means]
                lines.append(f"  {name} {verb} from {means[0]} to {means[-1]} ({' -> '.join(means)})")
        return "\n".join(lines)


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in sorted(names) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _fall(name: str, before: Evaluation, after: Evaluation) -> float:
    """Difference of two means; nan, which no limit is below, where one of them lacks the metric."""
    return before.means.get(name, nan) - after.means.get(name, nan)
