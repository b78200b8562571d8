"""What a base model and its text encoders are, by the content of the files that are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffopd.files.fingerprint import cached_sha256_of
from diffopd.files.names import MODEL_CONFIG
from diffopd.model.whole import Component
from diffopd.weights.hashing import hash_ahead

_CONFIGS = (MODEL_CONFIG, "scheduler_config.json")


def pipeline_identity(components: Mapping[str, Component], names: Sequence[str]) -> str:
    """SHA-256 over the configs and weights that make up a base model.

    Exactly the files that are read count: other formats, variants such as ``model.fp16.safetensors``, and
    what an index does not name are left out, which a folder may or may not hold.

    Args:
        components: Of the pipeline.
        names: Of the components that count, in the order they are read; one that is not there does not count.
    """
    digest = hashlib.sha256()
    files = [(name, file) for name in names if name in components for file in _files(components[name])]
    hash_ahead([file for _, file in files], "base weights")
    for name, file in files:
        digest.update(f"{name}/{file.name} {cached_sha256_of(file)}\n".encode())
    return digest.hexdigest()


def encoding_identity(components: Mapping[str, Component], encoders: Sequence[str]) -> str:
    """SHA-256 over the text encoders' configs and weights, and all files of their tokenizers.

    Args:
        components: Of the pipeline.
        encoders: Names of its text encoders; the tokenizer of ``text_encoder_2`` is ``tokenizer_2``.
    """
    digest = hashlib.sha256(pipeline_identity(components, encoders).encode())
    for encoder in encoders:
        tokenizer = components.get(encoder.replace("text_encoder", "tokenizer"))
        if tokenizer is None:
            continue
        for file in sorted(file for file in tokenizer.folder.rglob("*") if file.is_file()):
            place = file.relative_to(tokenizer.folder.parent)
            digest.update(f"{place} {cached_sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _files(component: Component) -> list[Path]:
    """Configs and weights, sorted by name."""
    configs = [component.folder / name for name in _CONFIGS]
    return sorted([*component.weights, *(file for file in configs if file.is_file())])
