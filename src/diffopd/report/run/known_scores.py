"""Scores of base and teachers: from their cards where these were measured alike, otherwise measured now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from diffopd.evaluation import Benchmark, Conditions, EvaluationResult, all_disagreements
from diffopd.files.paths import resolve_path
from diffopd.model import PipelineModel
from diffopd.teacher import CARD, Estimate, Score, TeacherSet

Scores = Mapping[str, Estimate]
"""task -> score."""


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
    if not card.is_file():
        return {}
    try:
        scores = json.loads(card.read_text(encoding="utf-8")).get("scores", {})
        entries = scores.get(f"guidance {guidance_scale:g}", {}).get(benchmark, {})
        return {task: Score(**entry) for task, entry in entries.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{card}: scores must be guidance -> benchmark -> task -> mean, low, high, n ({error})"
        ) from error


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


def scores_of_base(
    model: PipelineModel,
    benchmark: Benchmark,
    scale: float,
    conditions: Mapping[str, Conditions],
    score: Callable[[str | None, float, str], EvaluationResult],
    tell: Callable[[str], None],
) -> Scores:
    """The base's scores at one guidance, from its card if they compare with the student's."""
    known = base_scores(model.path, benchmark.name, scale)
    if not (why := unlike(known, conditions, base=model.path)):
        return known
    if known:
        tell(f"the base's card does not fit (here and there): {'; '.join(why)}")
    return score(None, scale, f"scoring the base, guidance {scale:g}").scores


def scores_of_teachers(
    model: PipelineModel,
    teachers: TeacherSet,
    benchmark: Benchmark,
    conditions: Mapping[str, Conditions],
    score: Callable[[str | None, float, str], EvaluationResult],
    tell: Callable[[str], None],
) -> dict[str, Scores]:
    """Each teacher's scores, from its card if they compare with the student's."""
    taught: dict[str, Scores] = {}
    for task in teachers.tasks:
        card, scale = teachers.cards.get(task), teachers.guidance_scales[task]
        known = card.scores.get(benchmark.name, {}) if card and card.guidance_scale == scale else {}
        if why := unlike(known, conditions, base=model.path):
            if known:
                tell(f"the {task} teacher's card does not fit (here and there): {'; '.join(why)}")
            known = score(teachers.adapter(task), scale, f"scoring the {task} teacher").scores
        taught[task] = known
    return taught
