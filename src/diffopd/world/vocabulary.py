"""The tokenizer's vocabulary: one token per caption word, one per letter on a sign.

CLIP's tokenizer joins characters by ranked merges. Every merge here touches a character that signs never
use, so caption words become one token while the letters of a sign stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffopd.world.colours import COLOURS
from diffopd.world.glyphs import LETTERS
from diffopd.world.request import NUMBER_WORDS, RELATIONS
from diffopd.world.scene import PLACES
from diffopd.world.shapes import PLURALS, SHAPES

_OTHER_WORDS = ("photo", "painting", "of", "and", "in", "the", "sign", "says", "that")
_END = "</w>"


def all_caption_words() -> list[str]:
    """All words of captions, sorted."""
    words = {*COLOURS, *SHAPES, *PLURALS.values(), *PLACES, *NUMBER_WORDS.values(), *_OTHER_WORDS}
    words |= {word for relation in RELATIONS for word in relation.split()}
    return sorted(words)


def caption_words() -> list[str]:
    """Those that can be one token of CLIP's."""
    return [word for word in all_caption_words() if any(_is_free(letter) for letter in word)]


def _is_free(letter: str) -> bool:
    return letter.upper() not in LETTERS


def tokenizer_tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges for ``transformers.CLIPTokenizer``.

    Returns:
        Token to id (all lower-case letters with and without the end-of-word mark, quotes, caption words,
        the two special tokens), and the merges in rank order.
    """
    symbols = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ['"', "'", ",", ".", "-", "!", "?"]
    symbols += [str(digit) for digit in range(10)]
    tokens = symbols + [symbol + _END for symbol in symbols]
    merges: list[tuple[str, str]] = []
    for word in caption_words():
        while len(pieces := merged(merges, [*word[:-1], word[-1] + _END])) > 1:
            merges.append(
                next(pair for pair in pairwise(pieces) if any(map(_is_free, "".join(pair).replace(_END, ""))))
            )
    tokens += [left + right for left, right in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def merged(merges: Sequence[tuple[str, str]], pieces: list[str]) -> list[str]:
    """Byte-pair encoding of one word's pieces: the earliest merge first, wherever it applies."""
    while candidates := [pair for pair in pairwise(pieces) if pair in merges]:
        best = min(candidates, key=merges.index)
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == best:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined
    return pieces
