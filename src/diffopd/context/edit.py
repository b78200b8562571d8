"""The student's own references, and the target after them."""

from __future__ import annotations

from typing import ClassVar, final

from diffopd.context.base import Context, checked_template, filled, targets_of
from diffopd.types import Prompts


@final
class Edit(Context):
    """For learning to edit: the student is shown references, the teacher the same and then the answer.

    References:
        "D-OPSD", 2026, arXiv:2605.05204, and its released trainer for editing with FLUX.2 [klein].
    """

    shows_target: ClassVar[bool] = True

    def __init__(self, *, template: str) -> None:
        """Keep the sentence.

        Args:
            template: What the teacher reads; ``{caption}`` stands for the row's own text.

        Raises:
            ValueError: If it has no ``{caption}``.
        """
        self.template = checked_template(template, "context.template")

    def __call__(self, prompts: Prompts) -> Prompts:
        """The template's text, the row's references, and the target as the last one.

        Raises:
            ValueError: If a row has no target.
        """
        targets = targets_of(prompts, "edit")
        shown = [(*row, target) for row, target in zip(prompts.references, targets, strict=True)]
        return prompts.with_texts(filled(self.template, prompts)).with_references(shown)
