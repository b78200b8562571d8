"""A better caption in place of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from diffopd.context.base import Context
from diffopd.types import Prompts


@final
class Text(Context):
    """The teacher reads another caption of the same row, such as a longer one. Any model reads it."""

    shows_target: ClassVar[bool] = False

    def __init__(self, *, key: str) -> None:
        """Keep the key.

        Args:
            key: Of the caption, among the captions of a picture, or in the line of a prompt file.
        """
        self.key = key

    def __call__(self, prompts: Prompts) -> Prompts:
        """The caption of that key as the text.

        Raises:
            ValueError: If a row has none.
        """
        rows = zip(prompts.texts, prompts.metadata, strict=True)
        return prompts.with_texts([self._caption(text, entry) for text, entry in rows])

    def _caption(self, text: str, entry: Mapping[str, Any]) -> str:
        captions = entry.get("captions", entry)
        found = captions.get(self.key)
        if not isinstance(found, str) or not found.strip():
            known = sorted(key for key, value in captions.items() if isinstance(value, str) and value.strip())
            raise ValueError(
                f"context.key={self.key}: there is no such caption for {text!r}; it has {known or 'none'}"
            )
        return found
