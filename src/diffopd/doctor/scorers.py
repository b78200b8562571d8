"""Every configured reward judges an image known to be good and one known to be bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffopd.build.experiment import Experiment
from diffopd.doctor.finding import Finding, Level
from diffopd.evaluation import UntrustedError, check_scorer, read_pair, scorers_of
from diffopd.reward.by_task import RewardByTask
from diffopd.reward.checked import RewardError
from diffopd.types import Reward


@dataclass(frozen=True)
class Scorer:
    """A reward of a training.

    Attributes:
        reward: The scorer.
        path: Its place in the config.
        name: What a user's pair for it is called in ``scorer_pairs``.
        trained_on: Whether the training learns from it.
    """

    reward: Reward
    path: str
    name: str
    trained_on: bool


def configured_scorers(experiment: Experiment, learns_from_rewards: bool) -> list[Scorer]:
    """The rewards of a built training: its own by task, those held out, and its benchmark's."""
    phase, found = experiment.phase, list[Scorer]()
    reward: Any = getattr(phase, "reward", None)
    if isinstance(reward, RewardByTask):
        found += [
            Scorer(member, f"reward.rewards.{task}", task, learns_from_rewards)
            for task, member in reward.rewards.items()
        ]
    elif reward is not None:
        found.append(Scorer(reward, "reward", "reward", learns_from_rewards))
    held_out: Any = getattr(phase, "held_out", {})
    found += [Scorer(each, f"phase.held_out.{name}", name, False) for name, each in held_out.items()]
    if experiment.benchmark is not None:
        of_benchmark = scorers_of(experiment.benchmark)
        found += [Scorer(each, f"benchmark {name}", name, False) for name, each in of_benchmark.items()]
    return found


def scorer_findings(
    scorers: list[Scorer], pairs: Mapping[str, Mapping[str, Any]], *, side: int | None
) -> Iterator[Finding]:
    """Does each give the better image more?

    Args:
        scorers: By :func:`configured_scorers`.
        pairs: Name of a scorer -> the user's pair; others use the one their reward knows.
        side: Height and width of the model's pictures; None where there is no model.

    Raises:
        ValueError: If ``pairs`` names what is not there, or an image cannot be read.
    """
    names = {scorer.name for scorer in scorers}
    if unknown := sorted(set(pairs) - names):
        raise ValueError(f"scorer_pairs has {unknown}; the run's scorers are {sorted(names)}")
    for scorer in scorers:
        given = pairs.get(scorer.name)
        pair = None if given is None else read_pair(given, scorer.name)
        try:
            for line in check_scorer(scorer.reward, scorer.path, pair, otherwise="", side=side):
                yield _finding(line, scorer)
        except (UntrustedError, RewardError) as error:
            yield Finding(Level.FAILURE, "scorer", str(error))


def _finding(line: str, scorer: Scorer) -> Finding:
    if ": not checked" not in line:
        return Finding(Level.FINE, "scorer", line)
    advice = f"; give one with +scorer_pairs.{scorer.name}={{better: ..., worse: ..., prompt: ...}}"
    return Finding(Level.WARNING if scorer.trained_on else Level.NOTE, "scorer", line + advice)
