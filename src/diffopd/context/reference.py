"""The target as a reference picture, with a sentence that asks for it."""

from __future__ import annotations

from typing import final

from diffopd.context.base import SentenceContext, targets_of
from diffopd.types import Prompts


@final
class Reference(SentenceContext):
    """The teacher edits: it is shown the target, and asked to draw what is in it.

    The row's own references, if it has any, are not shown; :class:`~diffopd.context.Edit` keeps them.

    References:
        "D-OPSD", 2026, arXiv:2605.05204, and its released trainer for FLUX.2 [klein].
    """

    def __call__(self, prompts: Prompts) -> Prompts:
        """The template's text, and the target as the only reference.

        Raises:
            ValueError: If a row has no target.
        """
        shown = [(target,) for target in targets_of(prompts, "reference")]
        return self.told(prompts, shown)
