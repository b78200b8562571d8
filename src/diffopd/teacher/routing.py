"""Which teachers a prompt learns from, and how much from each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from diffopd.randomness import numpy_generator
from diffopd.types import Prompts

TEACHER_WEIGHTS = "teacher_weights"
"""Key of a prompt's metadata with its own weights, ``{teacher: weight}``."""


class Routing(ABC):
    """A rule that gives every prompt its teachers.

    A routing that decides by measured scores names the prompts to measure with, and is then told the scores.

    Attributes:
        by_name: Whether every task needs the teacher that is named as it.
        measures: Whether teachers are scored before the first round.
    """

    by_name: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    @abstractmethod
    def weights(self, prompts: Prompts, teachers: Sequence[str]) -> list[dict[str, float]]:
        """Weights over teachers for each prompt.

        Args:
            prompts: The rows.
            teachers: Names of the teachers there are.

        Returns:
            Per row, teacher -> weight above 0; the weights of a row sum to 1.

        Raises:
            ValueError: If a row's rule names a teacher that is not there, or there is no rule for it.
        """

    @abstractmethod
    def prompts_to_measure(self, seed: int) -> Prompts | None:
        """Prompts on which all teachers are to be scored before training, or None."""

    @abstractmethod
    def choose(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Take note of the measurement, ``{teacher: {task: mean reward}}``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know, as JSON can hold it."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""


class _Fixed(Routing):
    """A rule that the config settles; nothing is measured or kept."""

    def prompts_to_measure(self, seed: int) -> Prompts | None:
        """None."""
        return None

    def choose(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Scores change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


@final
class ByTask(_Fixed):
    """The paper's rule: the teacher that is named as the prompt's task."""

    by_name: ClassVar[bool] = True

    def weights(self, prompts: Prompts, teachers: Sequence[str]) -> list[dict[str, float]]:
        """One teacher per row.

        Raises:
            ValueError: If a task has no teacher.
        """
        for task in dict.fromkeys(prompts.tasks):
            if task not in teachers:
                raise ValueError(
                    f"no teacher for task {task}; teacher.teachers has {', '.join(teachers)}. Add "
                    f"teacher.teachers.{task}, or set the task's teachers with routing=mixture"
                )
        return [{task: 1.0} for task in prompts.tasks]


@final
class Mixture(_Fixed):
    """Several teachers per task, their velocities averaged with fixed weights.

    A prompt's metadata may hold weights of its own under ``teacher_weights``; they take the place of its
    task's.
    """

    def __init__(self, *, weights: Mapping[str, Any]) -> None:
        """Check the weights; which teachers there are is seen later.

        Args:
            weights: task -> teacher -> weight, of which only the ratios matter.

        Raises:
            ValueError: If a weight is negative or not finite, or a task's are all 0.
        """
        self._by_task = {task: shares(entry, f"routing.weights.{task}") for task, entry in weights.items()}

    def weights(self, prompts: Prompts, teachers: Sequence[str]) -> list[dict[str, float]]:
        """The prompt's own weights, or else its task's.

        Raises:
            ValueError: If a task has no weights, or a weight is for a teacher that is not there.
        """
        return [self._row(prompts, row, teachers) for row in range(len(prompts))]

    def _row(self, prompts: Prompts, row: int, teachers: Sequence[str]) -> dict[str, float]:
        task, own = prompts.tasks[row], prompts.metadata[row].get(TEACHER_WEIGHTS)
        if own is not None:
            place = f"{TEACHER_WEIGHTS} of prompt {prompts.texts[row]!r} (task {task})"
            result = shares(own, place)
        elif task in self._by_task:
            place, result = f"routing.weights.{task}", self._by_task[task]
        else:
            raise ValueError(
                f"routing.weights has no task {task}; it has {', '.join(self._by_task) or 'none'}. Add "
                f"routing.weights.{task}, or give its prompts {TEACHER_WEIGHTS}"
            )
        unknown = [teacher for teacher in result if teacher not in teachers]
        if unknown:
            raise ValueError(
                f"{place} names {', '.join(unknown)}, which is not a teacher; teacher.teachers has "
                f"{', '.join(teachers)}"
            )
        return dict(result)


@final
class Automatic(Routing):
    """For each task the teacher that scores best on it, measured before training.

    Attributes:
        choice: task -> its teacher; None until scores are known.
    """

    measures: ClassVar[bool] = True

    def __init__(self, *, num_prompts: int, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        """Read nothing yet.

        Args:
            num_prompts: Prompts of each task to measure with.
            tasks: task -> a mapping with the ``path`` of its prompts, as in ``data.tasks``.

        Raises:
            ValueError: If ``num_prompts`` is below 1.
        """
        if num_prompts < 1:
            raise ValueError(f"routing.num_prompts={num_prompts} must be at least 1")
        self.num_prompts = num_prompts
        self._paths = {task: str(entry["path"]) for task, entry in tasks.items()}
        self.choice: dict[str, str] | None = None

    def prompts_to_measure(self, seed: int) -> Prompts | None:
        """Prompts drawn from every task's file, or None once the choice is made.

        Args:
            seed: Of the draw.
        """
        from diffopd.data.prompt_files import read_prompts

        if self.choice is not None:
            return None
        entries = []
        for task, path in self._paths.items():
            found = read_prompts(path, task, setting=f"routing.tasks.{task}.path")
            order = numpy_generator(seed, f"routing/prompts/{task}").permutation(len(found))
            entries += [found[place] for place in order[: self.num_prompts]]
        numbers = tuple(range(len(entries)))
        return Prompts(
            texts=tuple(entry.text for entry in entries),
            tasks=tuple(entry.task for entry in entries),
            metadata=tuple(entry.metadata for entry in entries),
            indices=numbers,
            groups=numbers,
        )

    def choose(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Keep the best teacher of every task; of equal ones, the first.

        Args:
            scores: teacher -> task -> mean reward; the same tasks for all.

        Raises:
            ValueError: If there is no teacher, one lacks a task, or a score is not finite.
        """
        tasks = list(dict.fromkeys(task for entry in scores.values() for task in entry))
        for teacher, entry in scores.items():
            for task in tasks:
                if not math.isfinite(entry.get(task, math.nan)):
                    raise ValueError(
                        f"teacher {teacher} has the score {entry.get(task)} on task {task}; "
                        "routing=automatic needs a finite one of every teacher on every task"
                    )
        if not tasks:
            raise ValueError("routing=automatic was given no scores; teacher.teachers names no teacher")
        self.choice = {task: max(scores, key=lambda teacher: scores[teacher][task]) for task in tasks}

    def weights(self, prompts: Prompts, teachers: Sequence[str]) -> list[dict[str, float]]:
        """One teacher per row, by the choice.

        Raises:
            ValueError: If no choice is made, or a task or teacher is not in it.
        """
        if self.choice is None:
            raise ValueError(
                "routing=automatic has no scores yet; teachers are measured when training starts"
            )
        for task in dict.fromkeys(prompts.tasks):
            if task not in self.choice:
                raise ValueError(
                    f"routing=automatic was not measured on task {task}, only on {', '.join(self.choice)}; "
                    f"add routing.tasks.{task}"
                )
            if self.choice[task] not in teachers:
                raise ValueError(
                    f"routing=automatic chose teacher {self.choice[task]} for task {task}, and "
                    f"teacher.teachers has {', '.join(teachers)} now; start over with resume=never"
                )
        return [{self.choice[task]: 1.0} for task in prompts.tasks]

    def state_dict(self) -> dict[str, Any]:
        """The choice."""
        return {"choice": None if self.choice is None else dict(self.choice)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the choice of the run that is resumed; nothing is measured again."""
        choice = state.get("choice")
        self.choice = None if choice is None else dict(choice)


def shares(weights: Any, place: str) -> dict[str, float]:
    """Weights as shares of their sum, those of 0 left out.

    Args:
        weights: teacher -> weight.
        place: Where they come from, for the message.

    Raises:
        ValueError: If they are no such mapping, one is negative or not finite, or all are 0.

    Examples:
        >>> shares({"ocr": 3, "aesthetic": 1, "composition": 0}, "routing.weights.ocr")
        {'ocr': 0.75, 'aesthetic': 0.25}
    """
    if not isinstance(weights, Mapping) or not all(_is_weight(weight) for weight in weights.values()):
        raise ValueError(f"{place}={weights} must be a mapping of teachers to finite numbers of at least 0")
    total = sum(weights.values())
    if not total > 0:
        raise ValueError(f"{place} gives no teacher a weight above 0; name at least one")
    return {str(teacher): float(weight / total) for teacher, weight in weights.items() if weight > 0}


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
