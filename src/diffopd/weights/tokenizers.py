"""Are the tokenizers of a pipeline, or of a scorer, its own?

Where files are missing, transformers makes up a small vocabulary and says nothing: every prompt then has
wrong tokens. So the files are required, and what was read from them is compared with the text encoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

_SETTINGS = "tokenizer_config.json"  # the padding token and the longest prompt are there
_WHOLE = "tokenizer_file"
_LEAST_SHARE = 0.9
"""Of an encoder's vocabulary. Encoders have some spare rows: T5 has 32128 for 32100 tokens, Qwen 152064 for
151665."""


def check_tokenizer_files(folder: Path, kind: type[PreTrainedTokenizerBase], where: str) -> None:
    """Check that the files of a tokenizer are there and not empty.

    Args:
        folder: The tokenizer's.
        kind: Its class, which says what its vocabulary is kept in.
        where: The folder in the user's words, for messages.

    Raises:
        ValueError: If one is missing or empty.
    """
    vocabulary = dict(kind.vocab_files_names)
    whole = vocabulary.pop(_WHOLE, "tokenizer.json")
    parts = sorted(vocabulary.values())
    needed = [_SETTINGS] if _has_content(folder / whole) else [_SETTINGS, *parts]
    if not parts:
        needed = [_SETTINGS, whole]
    for name in needed:
        if not _has_content(folder / name):
            state = "is empty" if (folder / name).is_file() else "is missing"
            other = f" (or {whole} in place of {' and '.join(parts)})" if name in parts else ""
            raise ValueError(
                f"{where}/{name} {state}{other}; without it prompts would be read with a made-up vocabulary. "
                "Fetch or copy the folder again"
            )


def check_tokenizer(tokenizer: Any, vocab_size: int, where: str) -> None:
    """Compare a tokenizer with the vocabulary of its text encoder.

    Args:
        tokenizer: As loaded.
        vocab_size: Rows of the text encoder's embedding.
        where: The tokenizer's folder in the user's words, for messages.

    Raises:
        ValueError: If it has more tokens than the encoder, far fewer, or none made of several characters.
    """
    tokens = len(tokenizer)
    if not _LEAST_SHARE * vocab_size <= tokens <= vocab_size:
        raise ValueError(
            f"{where} has {tokens} tokens, its text encoder {vocab_size}: they do not belong together, or "
            "files of the tokenizer are truncated. Fetch or copy both folders again"
        )
    pieces, merges = _merging(tokenizer)
    if merges < pieces // 2:
        raise ValueError(
            f"{where}: its vocabulary has {pieces} pieces of several characters and {merges} rules that make "
            "them; files of the tokenizer are truncated. Fetch or copy the folder again"
        )


def check_chat_template(tokenizer: Any, where: str) -> None:
    """Check that a tokenizer knows how a conversation is written, which some pipelines ask it for.

    Args:
        tokenizer: As loaded.
        where: The tokenizer's folder in the user's words, for messages.

    Raises:
        ValueError: If it does not.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"{where} has no chat template, neither in chat_template.jinja nor in {_SETTINGS}; this pipeline "
            "writes every prompt with it. Fetch or copy the folder again"
        )


def _has_content(file: Path) -> bool:
    return file.is_file() and bool(file.read_bytes().strip(b" \t\r\n{}[]"))


def _merging(tokenizer: Any) -> tuple[int, int]:
    """Pieces of several characters in a byte-pair vocabulary, and rules that make them; 0 for other kinds."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    if model.get("type") != "BPE":
        return 0, 0
    special, suffix = set(tokenizer.get_added_vocab()), model.get("end_of_word_suffix") or ""
    pieces = (piece.removesuffix(suffix) for piece in model["vocab"] if piece not in special)
    return sum(len(piece) > 1 for piece in pieces), len(model["merges"])
