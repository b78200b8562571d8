"""Which prompts are longer than a model's text encoders read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import CLIPTokenizer

from diffopd.model.pipeline_model import PipelineModel


def too_long(model: PipelineModel, texts: Sequence[str]) -> list[str]:
    """The prompts that no encoder of the model reads to their ends, the order kept.

    Words that a chat template adds around a prompt are not counted.

    Args:
        model: Its pipeline holds the tokenizers.
        texts: The prompts.
    """
    cut = [_cut(tokenizer, limit, texts) for tokenizer, limit in _readers(model)]
    return [text for row, text in enumerate(texts) if cut and all(row in rows for rows in cut)]


def most_tokens(model: PipelineModel) -> int:
    """Length of the longest prompt that one of the encoders reads to its end, in tokens."""
    return max(limit for _, limit in _readers(model))


def _readers(model: PipelineModel) -> Iterator[tuple[Any, int]]:
    """The tokenizers, each with the most tokens it passes on: CLIP's by its size, others by the config."""
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer: Any = getattr(model.pipeline, name, None)
        if isinstance(tokenizer, CLIPTokenizer):
            yield tokenizer, tokenizer.model_max_length
        elif tokenizer is not None and model.text_length:
            yield tokenizer, model.text_length


def _cut(tokenizer: Any, limit: int, texts: Sequence[str]) -> set[int]:
    """Rows that have more tokens than ``limit``, start and end included."""
    tokens = tokenizer(list(texts), truncation=False, padding=False, verbose=False).input_ids
    return {row for row, found in enumerate(tokens) if len(found) > limit}
