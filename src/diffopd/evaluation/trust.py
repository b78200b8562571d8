"""Scorers have to tell a known better image from a known worse one before anything is measured with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from diffopd.evaluation.benchmark import Benchmark
from diffopd.files.paths import expanded
from diffopd.files.png import read_png
from diffopd.metric.reward_mean import RewardMean
from diffopd.reward.by_task import RewardByTask
from diffopd.reward.checked import name_of, score_checked
from diffopd.reward.mixture import MixtureReward
from diffopd.types import KnownPair, Reward

_EXAMPLE = "{better: a.png, worse: b.png, prompt: ..., metadata: {}}"


class UntrustedError(ValueError):
    """A scorer that does not tell better from worse."""


def check_benchmark(
    benchmark: Benchmark, pairs: Mapping[str, Mapping[str, Any]], *, side: int | None = None
) -> Iterator[str]:
    """Check every scorer of a benchmark.

    Args:
        benchmark: Its metrics' rewards are checked.
        pairs: Task or held-out metric -> the user's pair: files ``better`` and ``worse``, ``prompt``,
            ``metadata``. Others use the pair their reward knows.
        side: Height and width of the model's pictures, as :func:`check_scorer` takes it.

    Yields:
        A line about each scorer: its two values, or that nothing is known to check it with.

    Raises:
        UntrustedError: If a scorer does not give the better image more.
        RewardError: If a scorer fails.
        ValueError: If ``pairs`` names what is not there, or a file cannot be read.
    """
    rewards = scorers_of(benchmark)
    if unknown := sorted(set(pairs) - set(rewards)):
        raise ValueError(f"scorer_pairs has {unknown}; the benchmark's scorers are {sorted(rewards)}")
    for name, reward in rewards.items():
        given = read_pair(pairs[name], name) if name in pairs else None
        yield from check_scorer(reward, name, given, pairs=f"scorer_pairs.{name}", side=side)


def scorers_of(benchmark: Benchmark) -> dict[str, Reward]:
    """Task or held-out metric -> the reward it takes means of; other metrics have none."""
    metrics = {task: entry.metric for task, entry in benchmark.tasks.items()} | dict(benchmark.held_out)
    return {name: metric.reward for name, metric in metrics.items() if isinstance(metric, RewardMean)}


def check_scorer(
    reward: Reward,
    path: str,
    pair: KnownPair | None = None,
    *,
    otherwise: str = ", or leave the check out with check_scorers=false",
    pairs: str | None = None,
    side: int | None = None,
) -> Iterator[str]:
    """Check one scorer; of a mixture without a pair of its own, each member.

    A reward of anyone's takes part by a method ``known_pair()`` that returns a :class:`KnownPair` or None, or
    by ``known_pair_of(side)``, which gets the size of the model's pictures.

    Args:
        reward: The scorer.
        path: What it is called in messages.
        pair: The images; None = those the reward knows.
        otherwise: What else the user of an untrusted scorer can do.
        pairs: Setting that takes a pair of the user's; None if there is none.
        side: Height and width of the pictures that are going to be scored; a smaller pair that the reward
            knows is enlarged to it. None takes the pair as it is.

    Yields:
        As :func:`check_benchmark`.

    Raises:
        UntrustedError: If it does not give the better image more.
        RewardError: If it fails.
    """
    pair = _known_pair(reward, side) if pair is None else pair
    if pair is None and isinstance(reward, (MixtureReward, RewardByTask)):
        for name, member in reward.rewards.items():
            yield from check_scorer(
                member, f"{path}.rewards.{name}", otherwise=otherwise, pairs=pairs, side=side
            )
        return
    scorer = f"{path} ({name_of(reward)})"
    if pair is None:
        why = getattr(reward, "why_no_pair", "it has no pair of a good and a bad image")
        hint = f"; give it a pair with '+{pairs}={_EXAMPLE}'" if pairs else ""
        yield f"{scorer}: not checked, as {why}{hint}"
        return
    better, worse = (
        score_checked(reward, image[None], pair.prompt, path).value.item()
        for image in (pair.better, pair.worse)
    )
    if not better > worse:
        raise UntrustedError(
            f"{scorer} gives {better:.4g} to a good image for {pair.prompt.texts[0]!r}, and {worse:.4g} to a "
            f"bad one, so it cannot be trusted; check its weights and settings{otherwise}"
        )
    yield f"{scorer}: check passed, {better:.4g} for a good image, {worse:.4g} for a bad one"


def _known_pair(reward: Reward, side: int | None) -> KnownPair | None:
    """The pair that a reward knows, in the size of the model's pictures where it is smaller."""
    of_size = getattr(reward, "known_pair_of", None)
    if side is not None and of_size is not None:
        return of_size(side)
    know = getattr(reward, "known_pair", None)
    pair = None if know is None else know()
    if pair is None or side is None:
        return pair
    return KnownPair(_enlarged(pair.better, side), _enlarged(pair.worse, side), pair.prompt)


def _enlarged(image: Tensor, side: int) -> Tensor:
    """An image whose shorter side is at least ``side`` pixels."""
    factor = side / min(image.shape[-2:])
    if factor <= 1:
        return image
    size = tuple(round(factor * length) for length in image.shape[-2:])
    return interpolate(image[None], size=size, mode="nearest-exact")[0]


def read_pair(entry: Mapping[str, Any], task: str) -> KnownPair:
    """A pair from files.

    Args:
        entry: ``better``, ``worse``, ``prompt`` and ``metadata``.
        task: The task of its prompt.

    Raises:
        ValueError: If a file is no image.
    """
    better, worse = (_read_image(entry[key], f"scorer_pairs.{task}.{key}") for key in ("better", "worse"))
    return KnownPair.of(better, worse, entry["prompt"], task, entry["metadata"])


def _read_image(path: str, setting: str) -> Float[Tensor, " 3 height width"]:
    try:
        return read_png(expanded(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting}={path} cannot be read as an image: {error}") from error
