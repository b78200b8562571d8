"""Pipelines and transformers as the folders that stock libraries read."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from diffopd.files.atomic import atomic_write_text, replacing_folder
from diffopd.files.names import INDEX, MODEL_CONFIG

LARGEST_FILE = "5GB"
"""Weights in one file at most, as diffusers counts; more are in several files with an index."""
_ORIGIN = "_name_or_path"
"""Setting in which diffusers and transformers note the folder that a model was loaded from."""


def save_pipeline(pipeline: Any, folder: str | PathLike[str]) -> None:
    """Write a diffusers pipeline, whole or not at all; a folder of that name is replaced.

    Args:
        pipeline: With all its components.
        folder: Its new folder, which names no folder of the machine it was made on.
    """
    with replacing_folder(folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True, max_shard_size=LARGEST_FILE)
        forget_origin(temporary)


def save_transformer(transformer: Any, folder: str | PathLike[str]) -> None:
    """The same of a transformer alone."""
    with replacing_folder(folder) as temporary:
        transformer.save_pretrained(temporary, safe_serialization=True, max_shard_size=LARGEST_FILE)
        forget_origin(temporary)


def forget_origin(folder: Path) -> None:
    """Leave out of every config in a folder, however deep, where a model was loaded from."""
    for file in sorted(file for name in (INDEX, MODEL_CONFIG) for file in folder.rglob(name)):
        settings = json.loads(file.read_text(encoding="utf-8"))
        if (kept := _without_origin(settings)) != settings:
            atomic_write_text(file, json.dumps(kept, indent=2) + "\n")


def _without_origin(settings: Any) -> Any:
    """The same settings, those of models within a model included."""
    if isinstance(settings, dict):
        return {key: _without_origin(value) for key, value in settings.items() if key != _ORIGIN}
    return [_without_origin(value) for value in settings] if isinstance(settings, list) else settings
