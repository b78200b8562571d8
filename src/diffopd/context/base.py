"""A context: from what a row's student is told to what its teacher is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from diffopd.types import Picture, Prompts

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


def checked_template(template: str, setting: str) -> str:
    """A template that has a place for the caption.

    Raises:
        ValueError: If it has none.
    """
    if CAPTION not in template:
        raise ValueError(f"{setting}={template!r} has no {CAPTION}, which stands for the prompt's own text")
    return template


def filled(template: str, prompts: Prompts) -> list[str]:
    """Each row's text in the place that a template has for it.

    Examples:
        >>> filled("{caption} As shown.", Prompts(("a cat",), ("t",), ({},), (0,), (0,)))
        ['a cat As shown.']
    """
    return [template.replace(CAPTION, text) for text in prompts.texts]


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
