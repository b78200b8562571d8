"""Which prompts a picture shows: those on which the base fails and the task's teacher succeeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffopd.evaluation import EvaluationResult, TaskResult

FAILS_BELOW, SUCCEEDS_AT = 0.5, 0.9
"""Shares of the best score of a task below which the base fails and from which the teacher succeeds. They are
fixed, so that nobody can choose a picture with them."""
_ROUNDING = 1e-9
"""A score of exactly the share counts, whatever the product rounds to."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The prompts of one task that a picture shows.

    Attributes:
        task: The task.
        places: Their places in the prompt file, from 0, in the order to show them.
        num_by_rule: How many of them the rule itself gave; those that follow have the largest gain.
        fails_below: Score below which the base fails; None where nothing was scored.
        succeeds_at: Score from which the teacher succeeds; None where nothing was scored.
        searched: Number of prompts that were looked at, from the start of the file.
    """

    task: str
    places: tuple[int, ...]
    num_by_rule: int
    fails_below: float | None
    succeeds_at: float | None
    searched: int

    @property
    def sentence(self) -> str:
        """What was chosen, for a caption."""
        count = len(self.places)
        if self.fails_below is None or self.succeeds_at is None:
            return f"{self.task}: the first {count}, as nothing says how base and teacher score on them"
        limits = f"base below {self.fails_below:.2f}, teacher at least {self.succeeds_at:.2f}"
        if self.num_by_rule == count:
            return f"{self.task}: {limits}"
        found = f"{self.num_by_rule} such" if self.num_by_rule else "none such"
        rest = count - self.num_by_rule
        last = "last " if self.num_by_rule else ""
        return f"{self.task}: {limits} ({found}; the {last}{rest} by largest gain)"


def choose(task: str, base: Sequence[float], teacher: Sequence[float], *, number: int) -> Choice:
    """The first prompts on which the base fails and the teacher succeeds, then those with the largest gain.

    Both limits are shares of the best score that base or teacher has on any of the prompts. The student has
    no say, so students of the same teachers are shown on the same prompts.

    Args:
        task: The task.
        base: Score of the base's picture for each prompt, in the order of the file.
        teacher: The same of the task's teacher.
        number: Prompts to choose; all of them if there are fewer.

    Raises:
        ValueError: If there is not one score of each for every prompt.

    Examples:
        >>> choose("ocr", [0.9, 0.2, 0.1, 0.3], [1.0, 0.8, 1.0, 0.9], number=2).places
        (2, 3)
    """
    if len(base) != len(teacher):
        raise ValueError(
            f"{task}: {len(base)} scores of the base and {len(teacher)} of the teacher; score both alike"
        )
    best = max((*base, *teacher), default=0.0)
    fails_below, succeeds_at = FAILS_BELOW * best, SUCCEEDS_AT * best
    found = [
        place
        for place, (before, after) in enumerate(zip(base, teacher, strict=True))
        if before < fails_below and after >= succeeds_at - _ROUNDING
    ][:number]
    rest = sorted(set(range(len(base))) - set(found), key=lambda place: (base[place] - teacher[place], place))
    return Choice(
        task=task,
        places=(*found, *rest[: number - len(found)]),
        num_by_rule=len(found),
        fails_below=fails_below,
        succeeds_at=succeeds_at,
        searched=len(base),
    )


def first(task: str, available: int, *, number: int) -> Choice:
    """The first prompts of a task of which no scores are known."""
    places = tuple(range(min(number, available)))
    return Choice(
        task=task, places=places, num_by_rule=0, fails_below=None, succeeds_at=None, searched=available
    )


def rule_sentence(choices: Sequence[Choice]) -> str:
    """The rule and what it gave, for a caption."""
    scored = [choice for choice in choices if choice.fails_below is not None]
    limits = "; ".join(choice.sentence for choice in choices)
    if not scored:
        return f"Prompts of the test files: {limits}."
    searched = max(choice.searched for choice in scored)
    return (
        f"Prompts: per task the first, among the first {searched} of its test file, on which the base fails "
        f"(score below {FAILS_BELOW:.0%} of the best) and the task's teacher succeeds (at least "
        f"{SUCCEEDS_AT:.0%} of the best). {limits[0].upper()}{limits[1:]}."
    )


def choose_scored(
    like: EvaluationResult,
    base: EvaluationResult | None,
    teachers: Mapping[str, EvaluationResult],
    *,
    number: int,
) -> list[Choice]:
    """Choose prompts of every task from evaluations that are there.

    Args:
        like: Any evaluation of the benchmark, for its tasks and prompts.
        base: The base's, or None where it is not among them.
        teachers: Task -> its teacher's; of other tasks the first prompts are taken.
        number: Prompts of each task.
    """
    return [
        choose(task, first_scores(base.tasks[task]), first_scores(teachers[task].tasks[task]), number=number)
        if base is not None and task in teachers
        else first(task, len(scored.texts), number=number)
        for task, scored in like.tasks.items()
    ]


def first_scores(scored: TaskResult) -> list[float]:
    """Score of the first image of each prompt."""
    return [scored.scores[scored.groups.index(number)] for number in range(len(scored.texts))]
