"""Made-up tokenizers of full size, in the files that the release has.

CLIP's byte-pair vocabulary has 49408 entries in ``vocab.json`` and its rules in ``merges.txt``; T5's is one
``tokenizer.json`` of 32100 pieces. The pieces are combinations of letters, so ordinary prompts are split into
several tokens each, as by the real ones; which tokens they are means nothing.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path

from transformers import T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

CLIP_TOKENS = 49408
T5_TOKENS, T5_ROWS = 32100, 32128
"""Tokens of the tokenizer, 100 for masked spans included; rows of the encoder's embedding."""
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def clip_tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-pair vocabulary, and the rules that make each piece of more than one character."""
    single = list(bytes_to_unicode().values())
    pieces = [*single, *(each + WORD_END for each in single)]
    rules = list(itertools.islice(_pairs(), CLIP_TOKENS - len(pieces) - 2))
    pieces += [left + right for left, right in rules]
    return {piece: place for place, piece in enumerate([*pieces, START, END])}, rules


def _pairs() -> Iterator[tuple[str, str]]:
    """Two letters, then three, then four: each piece is made by one rule, of pieces made before it."""
    letters = string.ascii_lowercase
    pairs = [left + right for left, right in itertools.product(letters, repeat=2)]
    for starts, ends in ((letters, letters), (pairs, letters), (pairs, pairs)):
        for ending in ("", WORD_END) if ends is letters else ("",):
            yield from ((left, right + ending) for left, right in itertools.product(starts, ends))


def write_clip(folder: Path, *, padding: str) -> None:
    """Write a CLIP tokenizer in the release's layout.

    Args:
        folder: To make.
        padding: Its padding token: the first one's is the end token, the second one's an exclamation mark.
    """
    folder.mkdir(parents=True)
    vocabulary, rules = clip_tables()
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in rules)]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    settings = {
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        **special,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_t5(folder: Path) -> None:
    """Write a T5 tokenizer; pieces of more letters are likelier than their parts one by one."""
    marks = ["▁", *string.ascii_lowercase, *string.ascii_uppercase, *string.digits, *string.punctuation]
    longer = (
        "".join(part) for n in (2, 3, 4) for part in itertools.product(string.ascii_lowercase, repeat=n)
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((mark, -12.0) for mark in marks)]
    wanted = T5_TOKENS - 100 - len(pieces)
    pieces += [(piece, -12.0 - len(piece)) for piece in itertools.islice(longer, wanted)]
    T5Tokenizer(vocab=pieces, extra_ids=100, model_max_length=512).save_pretrained(folder)
