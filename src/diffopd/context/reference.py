"""The target as a reference picture, with a sentence that asks for it."""

from __future__ import annotations

from typing import ClassVar, final

from diffopd.context.base import Context, checked_template, filled, targets_of
from diffopd.types import Prompts


@final
class Reference(Context):
    """The teacher edits: it is shown the target, and asked to draw what is in it.

    The row's own references, if it has any, are not shown; :class:`~diffopd.context.Edit` keeps them.

    References:
        "D-OPSD", 2026, arXiv:2605.05204, and its released trainer for FLUX.2 [klein].
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
        """The template's text, and the target as the only reference.

        Raises:
            ValueError: If a row has no target.
        """
        shown = [(target,) for target in targets_of(prompts, "reference")]
        return prompts.with_texts(filled(self.template, prompts)).with_references(shown)
