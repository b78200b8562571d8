"""Prompts that training on pictures does not use: one's own, or made of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffopd.context.base import CAPTION
from diffopd.data.rounds import RoundData
from diffopd.types import Prompts


def as_prompts(texts: Sequence[str]) -> Prompts:
    """Texts as prompts of no task, numbered from 0."""
    count = len(texts)
    return Prompts(tuple(texts), ("",) * count, ({},) * count, tuple(range(count)), tuple(range(count)))


def prompts_beside_pictures(templates: Sequence[str] | None, data: Any) -> Prompts | None:
    """Prompts for a model that learns pictures; None for one that learns none.

    Args:
        templates: What is asked for; ``{caption}`` stands for the shortest caption of the first picture,
            without the full stop at its end.
        data: The data of the run.
    """
    if not templates or not isinstance(data, RoundData):
        return None
    first = data.batch(0)
    if not any(first.targets):
        return None
    texts = next(iter(data.tasks.values())).entries[0].texts
    caption = min(texts, key=len).rstrip(" .,;:!")
    return as_prompts([template.replace(CAPTION, caption) for template in templates])
