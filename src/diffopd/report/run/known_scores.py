"""Scores of base and teachers: from their cards where these were measured alike, otherwise measured now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffopd.evaluation import Benchmark, Conditions, EvaluationResult, all_disagreements
from diffopd.files.paths import resolve_path
from diffopd.model import PipelineModel
from diffopd.teacher import CARD, Estimate, HeldOut, Score, TeacherSet

Scores = Mapping[str, Estimate]
"""task -> score."""


@dataclass(frozen=True)
class Measured:
    """What is known of one model at one guidance.

    Attributes:
        scores: task -> score.
        held_out: Held-out metric -> value.
    """

    scores: Mapping[str, Score]
    held_out: Mapping[str, HeldOut]

    @staticmethod
    def of(result: EvaluationResult) -> Measured:
        """What was measured now."""
        return Measured(result.scores, result.held_out_scores)


@dataclass(frozen=True)
class Wanted:
    """What the student's scores were measured with, which others beside them must share.

    Attributes:
        scores: task -> conditions.
        held_out: Held-out metric -> conditions.
    """

    scores: Mapping[str, Conditions]
    held_out: Mapping[str, Conditions]


def base_scores(model_path: str, benchmark: str, guidance_scale: float) -> dict[str, Score]:
    """Task -> score of the base on ``benchmark``, from the model's card; its conditions are not checked.

    Args:
        model_path: The model's folder, as in the config.
        benchmark: Name of the benchmark.
        guidance_scale: Guidance it was scored at.

    Returns:
        Empty if there is no card, or it lacks the benchmark at this guidance.

    Raises:
        ValueError: If the card cannot be read.
    """
    card = Path(resolve_path(model_path)) / CARD
    try:
        entries = _entries(card, "scores", benchmark, guidance_scale)
        return {task: Score(**entry) for task, entry in entries.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{card}: scores must be guidance -> benchmark -> task -> mean, low, high, n ({error})"
        ) from error


def base_held_out(model_path: str, benchmark: str, guidance_scale: float) -> dict[str, HeldOut]:
    """Held-out metric -> value of the base, as :func:`base_scores` has its scores.

    Args:
        model_path: The model's folder, as in the config.
        benchmark: Name of the benchmark.
        guidance_scale: Guidance it was measured at.

    Returns:
        Empty if there is no card, or it has none at this guidance.

    Raises:
        ValueError: If the card cannot be read.
    """
    card = Path(resolve_path(model_path)) / CARD
    try:
        return HeldOut.of_each(_entries(card, "held_out", benchmark, guidance_scale))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{card}: held_out must be guidance -> benchmark -> metric -> value, n, better ({error})"
        ) from error


def _entries(card: Path, part: str, benchmark: str, guidance_scale: float) -> Mapping[str, Any]:
    if not card.is_file():
        return {}
    found = json.loads(card.read_text(encoding="utf-8")).get(part, {})
    return found.get(f"guidance {guidance_scale:g}", {}).get(benchmark, {})


def unlike(known: Mapping[str, Score], wanted: Mapping[str, Conditions], *, base: str) -> list[str]:
    """Why scores of a card cannot stand beside scores of some conditions; empty if they can.

    Args:
        known: task -> score, as a card has them.
        wanted: task -> the conditions to be met.
        base: The folder or name of the base model at hand, for the message.
    """
    if missing := sorted(wanted.keys() - known.keys()):
        return [f"no score of {', '.join(missing)}"]
    if bare := [task for task in wanted if not known[task].conditions]:
        return [f"it does not say how {', '.join(bare)} was scored"]
    conditions = {task: known[task].conditions for task in wanted}
    return [
        f"they are of another base model than {base}, or of other weights than it has now"
        if line.startswith("base: ")  # two digests, which tell nobody which models they are of
        else line
        for line in all_disagreements(wanted, conditions, list(wanted))
    ]


def comparable(
    known: Mapping[str, HeldOut],
    wanted: Mapping[str, Conditions],
    *,
    whose: str,
    tell: Callable[[str], None],
) -> dict[str, HeldOut]:
    """Those held-out values of a card that were measured with some conditions; the others are left out.

    Nothing is drawn for what a card lacks: these values are no part of what is compared in shares of a gain.

    Args:
        known: Held-out metric -> value, as a card has them.
        wanted: Held-out metric -> the conditions to be met.
        whose: What the card is called.
        tell: Is told why values of other conditions are left out.
    """
    shared = [name for name in wanted if name in known]
    ours = {name: wanted[name] for name in shared}
    theirs = {name: known[name].conditions for name in shared}
    if lines := all_disagreements(ours, theirs, shared):
        tell(f"not trained on: {whose} has values that do not fit (here and there): {'; '.join(lines)}")
    return {name: known[name] for name in shared if theirs[name] and dict(ours[name]) == dict(theirs[name])}


def scores_of_base(
    model: PipelineModel,
    benchmark: Benchmark,
    scale: float,
    wanted: Wanted,
    score: Callable[[str | None, float, str], EvaluationResult],
    tell: Callable[[str], None],
) -> Measured:
    """The base's scores at one guidance, from its card if they compare with the student's."""
    known, card = base_scores(model.path, benchmark.name, scale), "the base's card"
    if not (why := unlike(known, wanted.scores, base=model.path)):
        held_out = base_held_out(model.path, benchmark.name, scale)
        return Measured(known, comparable(held_out, wanted.held_out, whose=card, tell=tell))
    if known:
        tell(f"{card} does not fit (here and there): {'; '.join(why)}")
    return Measured.of(score(None, scale, f"scoring the base, guidance {scale:g}"))


def scores_of_teachers(
    model: PipelineModel,
    teachers: TeacherSet,
    benchmark: Benchmark,
    wanted: Wanted,
    score: Callable[[str | None, float, str], EvaluationResult],
    tell: Callable[[str], None],
) -> dict[str, Measured]:
    """Each teacher's scores, from its card if they compare with the student's."""
    taught: dict[str, Measured] = {}
    for task in teachers.tasks:
        card, scale = teachers.cards.get(task), teachers.guidance_scales[task]
        if card is not None and card.guidance_scale != scale:
            card = None
        whose = f"the {task} teacher's card"
        known = {} if card is None else card.scores.get(benchmark.name, {})
        if why := unlike(known, wanted.scores, base=model.path):
            if known:
                tell(f"{whose} does not fit (here and there): {'; '.join(why)}")
            taught[task] = Measured.of(score(teachers.adapter(task), scale, f"scoring the {task} teacher"))
        else:
            held_out = {} if card is None else card.held_out.get(benchmark.name, {})
            fits = comparable(held_out, wanted.held_out, whose=whose, tell=tell)
            taught[task] = Measured(known, fits)
    return taught
