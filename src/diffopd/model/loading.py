"""Find and load a diffusers pipeline from a folder, the package or the hub."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline, ZImagePipeline
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import PreTrainedTokenizerBase

from diffopd.host.rank import is_first_process
from diffopd.model.component import load_component, quiet_loading, reading
from diffopd.model.whole import Component, check_whole, components_of
from diffopd.weights.files import read_json
from diffopd.weights.hashing import WORTH_A_LINE
from diffopd.weights.hub import HUB_ERRORS
from diffopd.weights.pipeline_path import INDEX, local_pipeline
from diffopd.weights.tokenizers import check_chat_template, check_tokenizer

log = logging.getLogger(__name__)

_IN_CONVERSATION = (Flux2KleinPipeline, ZImagePipeline)
"""Pipelines that write prompts as a conversation, by the tokenizer's chat template."""
_COMMIT = re.compile("[0-9a-f]{40}")


def pipeline_folder(
    path: str,
    revision: str | None = None,
    without: tuple[str, ...] = (),
    kind: type[DiffusionPipeline] = DiffusionPipeline,
    setting: str = "model.path",
) -> Path:
    """The local folder of a pipeline; a hub id is downloaded first (safetensors only).

    Args:
        path: A folder, ``package://...`` or a hub id such as ``stabilityai/stable-diffusion-3.5-medium``.
        revision: Branch, tag or commit on the hub; None = its main branch.
        without: Components not to download.
        kind: Class of the pipeline, which says what belongs to it.
        setting: Where the config names it, for messages.

    Raises:
        ValueError: If there is no such folder and the hub does not deliver it either.
    """
    place = local_pipeline(path, setting)
    if place is not None:
        return place
    skipped: dict[str, Any] = dict.fromkeys(without)
    try:
        return Path(kind.download(path, revision=revision, use_safetensors=True, **skipped))
    except (*HUB_ERRORS, ValueError) as error:
        raise _not_found(path, error, setting) from error


def whole_pipeline(
    path: str,
    *,
    kind: type[DiffusionPipeline],
    revision: str | None,
    without: tuple[str, ...] = (),
    setting: str = "model.path",
) -> tuple[Path, dict[str, Component]]:
    """The local folder of a pipeline and its components, with all their files there; no weights are read.

    Args:
        path: As in :func:`pipeline_folder`.
        kind: Class that the pipeline must have.
        revision: As in :func:`pipeline_folder`.
        without: Components to leave out beside those the pipeline itself was saved without.
        setting: Where the config names it, for messages.

    Raises:
        ValueError: If there is none, it is of another class, or files are missing or damaged.
    """
    folder = pipeline_folder(path, revision, without, kind, setting)
    components = components_of(folder, kind, without, f"{setting}={path}")
    check_whole(components)
    return folder, components


def resolved_commit(path: str, revision: str | None) -> str | None:
    """The commit that a hub id and a revision mean now; None for a folder.

    One small file is asked for, from the hub, or from its cache where the hub cannot be reached.

    Args:
        path: As in :func:`pipeline_folder`.
        revision: As in :func:`pipeline_folder`.

    Raises:
        ValueError: If there is no such folder and the hub does not know it either.
    """
    if local_pipeline(path) is not None:
        return None
    try:
        file = Path(hf_hub_download(path, INDEX, revision=revision))
    except (*HUB_ERRORS, ValueError) as error:
        raise _not_found(path, error) from error
    name = file.parent.name  # models--owner--name/snapshots/<commit>/model_index.json
    return name if _COMMIT.fullmatch(name) else None


def load_pipeline(
    path: str,
    *,
    kind: type[DiffusionPipeline],
    revision: str | None,
    dtypes: Mapping[str, torch.dtype],
    without: tuple[str, ...] = (),
    setting: str = "model.path",
) -> tuple[Any, dict[str, Component]]:
    """Load a pipeline.

    Args:
        path: As in :func:`pipeline_folder`.
        kind: Class that the pipeline must have.
        revision: As in :func:`pipeline_folder`.
        dtypes: Precision of each component; ``default`` for the others.
        without: Components to leave out beside those the pipeline itself was saved without.
        setting: Where the config names it, for messages.

    Returns:
        The pipeline on the CPU, and what its components were read from.

    Raises:
        ValueError: If there is none, it is of another class, or its files are missing, damaged, or do not
            belong together.
    """
    folder, components = whole_pipeline(path, kind=kind, revision=revision, without=without, setting=setting)
    index = read_json(folder / INDEX, f"{setting}={path}: {INDEX}")
    # diffusers asks for each component the pipeline was saved without to be passed as None.
    given: dict[str, Any] = {name: None for name, entry in index.items() if entry == [None, None]}
    given.update(dict.fromkeys(without))
    with quiet_loading():
        given.update(_tokenizers(kind, components))
        given.update(_models(path, components, dtypes))
        pipeline = kind.from_pretrained(folder, local_files_only=True, **given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, components


def _tokenizers(kind: type[DiffusionPipeline], components: Mapping[str, Component]) -> dict[str, Any]:
    """The tokenizers, each compared with its text encoder's config, and with what the pipeline asks of it."""
    found = {}
    for name, component in components.items():
        if not issubclass(component.kind, PreTrainedTokenizerBase):
            continue
        with reading(component.where):
            tokenizer = component.kind.from_pretrained(component.folder, local_files_only=True)
        encoder = components.get(name.replace("tokenizer", "text_encoder"))
        if encoder is not None:
            with reading(encoder.where):
                config: Any = encoder.kind.config_class.from_pretrained(encoder.folder, local_files_only=True)
                vocab_size = int(config.get_text_config().vocab_size)
            check_tokenizer(tokenizer, vocab_size, component.where)
        if kind in _IN_CONVERSATION:
            check_chat_template(tokenizer, component.where)
        found[name] = tokenizer
    return found


def _models(
    path: str, components: Mapping[str, Component], dtypes: Mapping[str, torch.dtype]
) -> dict[str, nn.Module]:
    """The models, one by one, as loading many gigabytes takes a while."""
    sizes = {
        name: sum(file.stat().st_size for file in component.weights)
        for name, component in components.items()
        if component.layout is not None
    }
    total, start = sum(sizes.values()), time.monotonic()
    told = total >= WORTH_A_LINE and is_first_process()
    if told:
        log.info("loading %s, %.1f GB", path, total / 1e9)
    found = {}
    for number, (name, size) in enumerate(sizes.items(), 1):
        component = components[name]
        if told and size >= WORTH_A_LINE:
            log.info("loading %s, %.1f GB (%d of %d)", name, size / 1e9, number, len(sizes))
        found[name] = load_component(
            component.kind,
            component.folder,
            dtype=dtypes.get(name, dtypes["default"]),
            where=component.where,
        )
    if told:
        log.info("loaded in %.0f s", time.monotonic() - start)
    return found


def read_transformer_config(path: str, revision: str | None = None) -> dict[str, Any]:
    """The backbone's ``config.json``, read without loading weights.

    Args:
        path: As in :func:`pipeline_folder`; from the hub, only this one file is fetched.
        revision: As in :func:`pipeline_folder`.

    Raises:
        ValueError: If it is missing or cannot be read.
    """
    place = local_pipeline(path)
    if place is not None:
        file = place / "transformer" / "config.json"
    else:
        try:
            file = Path(hf_hub_download(path, "transformer/config.json", revision=revision))
        except (*HUB_ERRORS, ValueError) as error:
            raise _not_found(path, error) from error
    return read_json(file, f"model.path={path}: transformer/config.json")


def _not_found(path: str, error: Exception, setting: str = "model.path") -> ValueError:
    """Neither here nor on the hub: the folder that was looked for comes first, the hub's answer after it."""
    return ValueError(
        f"{setting}={path}: there is no such folder ({Path(path).absolute()}), and the hub has no pipeline "
        f"of that name that can be loaded: {' '.join(str(error).split())}"
    )
