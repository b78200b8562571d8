"""A vocabulary of bytes for Qwen's kind of tokenizer: one token per caption word, one per letter on a sign.

Signs are lettered in capitals, which no caption word has, so no merge ever joins them.
"""

from __future__ import annotations

from itertools import pairwise

from diffopd.world.figure_request import POSITIONS, SIZES, THE_SAME_PICTURE
from diffopd.world.vocabulary import all_caption_words, merged

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Padding, and the two ends of a message."""
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
"""A prompt between its two marks: no roles, no room for thoughts, as every token takes time."""
_SPACE = "Ġ"  # how byte-level vocabularies write a space
_FIGURE_WORDS = ("a", "an", "figure", "same", *SIZES, *(" ".join(POSITIONS) + THE_SAME_PICTURE).split())


def figure_words() -> list[str]:
    """All words of captions, those of figures included, sorted."""
    words = {word.strip(",") for word in _FIGURE_WORDS}
    return sorted({*all_caption_words(), *words} - {""})


def byte_tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges for ``transformers.Qwen2Tokenizer``.

    Returns:
        Token to id (the 256 bytes, caption words with and without a space before them, the special tokens),
        and the merges in rank order.
    """
    merges: list[tuple[str, str]] = []
    for word in figure_words():
        for spelled in (word, _SPACE + word):
            while len(pieces := merged(merges, list(spelled))) > 1:
                merges.append(next(pairwise(pieces)))
    tokens = [*_alphabet(), *(left + right for left, right in merges), *SPECIAL]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _alphabet() -> list[str]:
    """The characters that stand for the 256 bytes: printable ones for themselves, others moved up by 256.

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (the GPT-2 tokenizer).
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(others))]
