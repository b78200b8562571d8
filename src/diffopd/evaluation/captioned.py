"""Captions of a folder of pictures as a benchmark's prompts, each with its picture."""

from __future__ import annotations

from diffopd.data.pair_files import TEXT, read_captions
from diffopd.data.prompt_files import PromptEntry
from diffopd.files.fingerprint import sha256_of
from diffopd.files.picture import picture_size
from diffopd.types import Picture


def captioned_prompts(path: str, task: str, *, setting: str) -> list[tuple[PromptEntry, Picture]]:
    """Every caption of a folder with its picture, in the order of the folder's file of captions.

    Args:
        path: The folder, in a layout that ``data=pairs`` finds by itself (``captions: auto``).
        task: Task of all prompts.
        setting: Where the folder is named in the config, for messages.

    Raises:
        ValueError: If there are no pictures, some have no caption, or one cannot be read.
    """
    found = []
    for number, file in enumerate(read_captions(path, "auto", "file_name", (TEXT,), setting=setting), 1):
        try:
            height, width = picture_size(file.file)
        except ValueError as error:
            raise ValueError(f"{setting}={path}: {error}") from error
        entry = PromptEntry(file.captions[TEXT], task, {**file.rest, "file_name": file.name}, number)
        found.append((entry, Picture(str(file.file), sha256_of(file.file), height, width)))
    return found
