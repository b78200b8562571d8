"""The student's own references, and the target after them."""

from __future__ import annotations

from typing import final

from diffopd.context.base import SentenceContext, targets_of
from diffopd.types import Prompts


@final
class Edit(SentenceContext):
    """For learning to edit: the student is shown references, the teacher the same and then the answer.

    References:
        "D-OPSD", 2026, arXiv:2605.05204, and its released trainer for editing with FLUX.2 [klein].
    """

    def __call__(self, prompts: Prompts) -> Prompts:
        """The template's text, the row's references, and the target as the last one.

        Raises:
            ValueError: If a row has no target.
        """
        targets = targets_of(prompts, "edit")
        shown = [(*row, target) for row, target in zip(prompts.references, targets, strict=True)]
        return self.told(prompts, shown)
