"""A context: from what a row's student is told to what its teacher is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from diffopd.types import KEPT, Picture, Prompts

CAPTION = "{caption}"
"""Stands for the row's own text in a template."""


class Context(ABC):
    """Tells the teacher more about each row. It keeps nothing and reads no files.

    Attributes:
        shows_target: Whether it needs the picture that a row is to learn, which the teacher is then shown.
    """

    shows_target: ClassVar[bool]

    @abstractmethod
    def __call__(self, prompts: Prompts) -> Prompts:
        """The same rows as the teacher is told them.

        Raises:
            ValueError: If a row lacks what it needs.
        """


def told_by(context: Context, prompts: Prompts) -> Prompts:
    """The rows as the teacher is told them; those of the task ``kept`` as the student is.

    Raises:
        ValueError: If another row lacks what the context needs.
    """
    kept = [row for row, task in enumerate(prompts.tasks) if task == KEPT]
    others = [row for row, task in enumerate(prompts.tasks) if task != KEPT]
    if not kept or not others:
        return prompts if kept else context(prompts)
    joined = Prompts.concat([context(prompts.select(others)), prompts.select(kept)])
    places = [*others, *kept]
    return joined.select([places.index(row) for row in range(len(prompts))])


class SentenceContext(Context):
    """A context that shows the target and puts each row's text into a sentence about what is shown."""

    shows_target: ClassVar[bool] = True

    def __init__(self, *, template: str) -> None:
        """Keep the sentence.

        Args:
            template: What the teacher reads; ``{caption}`` stands for the row's own text.

        Raises:
            ValueError: If it has no ``{caption}``.
        """
        if CAPTION not in template:
            raise ValueError(
                f"context.template={template!r} has no {CAPTION}, which stands for the prompt's own text"
            )
        self.template = template

    def told(self, prompts: Prompts, references: Sequence[Sequence[Picture]]) -> Prompts:
        """The rows with their texts in the sentence, shown these pictures."""
        texts = [self.template.replace(CAPTION, text) for text in prompts.texts]
        return prompts.with_texts(texts).with_references(references)


def targets_of(prompts: Prompts, name: str) -> list[Picture]:
    """The picture that each row is to learn.

    Args:
        prompts: The rows.
        name: Of the context, for the message.

    Raises:
        ValueError: If a row has none.
    """
    found = [target for target in prompts.targets if target is not None]
    if len(found) < len(prompts):
        missing = next(
            text for text, target in zip(prompts.texts, prompts.targets, strict=True) if not target
        )
        raise ValueError(
            f"context={name} shows the teacher the picture that a prompt is to learn, and there is none for "
            f"{missing!r}; choose data=pairs, which has pictures, or context=text, which needs none"
        )
    return found
