"""Find and load a diffusers pipeline from a folder, the package or the hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from diffopd.files import cached_sha256_of, resolve_path
from diffopd.hub import HUB_ERRORS

_INDEX = "model_index.json"
_COMMIT = re.compile("[0-9a-f]{40}")
_IDENTITY_CONFIGS = ("config.json", "scheduler_config.json")


def _looks_like_hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~"))


def pipeline_folder(
    path: str,
    revision: str | None = None,
    without: tuple[str, ...] = (),
    kind: type[DiffusionPipeline] = DiffusionPipeline,
) -> Path:
    """The local folder of a pipeline; a hub id is downloaded first (safetensors only).

    Args:
        path: A folder, ``package://...`` or a hub id such as ``stabilityai/stable-diffusion-3.5-medium``.
        revision: Branch, tag or commit on the hub; None = its main branch.
        without: Components not to download.
        kind: Class of the pipeline, which says what belongs to it.

    Raises:
        ValueError: If there is no such folder and the hub does not deliver it either.
    """
    place = Path(resolve_path(path))
    if place.is_dir():
        if not (place / _INDEX).is_file():
            raise ValueError(
                f"model.path={path}: {place} holds no {_INDEX}; give the folder of a whole pipeline"
            )
        return place
    if not _looks_like_hub_id(path):
        raise ValueError(f"model.path={path}: no such folder ({place.absolute()})")
    skipped: dict[str, Any] = dict.fromkeys(without)
    try:
        return Path(kind.download(path, revision=revision, use_safetensors=True, **skipped))
    except (*HUB_ERRORS, ValueError) as error:
        raise ValueError(
            f"model.path={path} is neither a folder here nor a pipeline the hub delivers: {error}"
        ) from error


def resolved_commit(path: str, revision: str | None) -> str | None:
    """The commit that a hub id and a revision mean now; None for a folder.

    One small file is asked for, from the hub, or from its cache where the hub cannot be reached.

    Args:
        path: As in :func:`pipeline_folder`.
        revision: As in :func:`pipeline_folder`.

    Raises:
        ValueError: If there is no such folder and the hub does not know it either.
    """
    if Path(resolve_path(path)).is_dir() or not _looks_like_hub_id(path):
        return None
    try:
        file = Path(hf_hub_download(path, _INDEX, revision=revision))
    except (*HUB_ERRORS, ValueError) as error:
        raise ValueError(
            f"model.path={path} is neither a folder here nor a pipeline the hub delivers: {error}"
        ) from error
    name = file.parent.name  # models--owner--name/snapshots/<commit>/model_index.json
    return name if _COMMIT.fullmatch(name) else None


def load_pipeline(
    path: str,
    *,
    kind: type[DiffusionPipeline],
    revision: str | None,
    dtypes: Mapping[str, torch.dtype],
    without: tuple[str, ...] = (),
) -> tuple[Any, Path]:
    """Load a pipeline and say where it lies.

    Args:
        path: As in :func:`pipeline_folder`.
        kind: Class that the pipeline must have.
        revision: As in :func:`pipeline_folder`.
        dtypes: Precision of each component; ``default`` for the others.
        without: Components to leave out beside those the pipeline itself was saved without.

    Returns:
        The pipeline on the CPU, and its folder.

    Raises:
        ValueError: If there is none, or it is of another class.
    """
    folder = pipeline_folder(path, revision, without, kind)
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if index.get("_class_name") != kind.__name__:
        raise ValueError(
            f"model.path={path} holds a {index.get('_class_name')}; a {kind.__name__} is needed. "
            "Choose the model that fits it, model=..."
        )
    # diffusers asks for each component the pipeline was saved without to be passed as None.
    absent = {name: None for name, entry in index.items() if entry == [None, None]}
    absent.update(dict.fromkeys(without))
    _check_weights(folder, index, absent, f"model.path={path}")
    with _without_progress_bars():
        pipeline = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dict(dtypes), **absent
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, folder


def _check_weights(folder: Path, index: Mapping[str, Any], absent: Mapping[str, Any], where: str) -> None:
    """Refuse weights that are no whole safetensors files, by their headers and sizes, before any is read.

    Raises:
        ValueError: If one is empty, cut short, or a pickle, or a component has pickles alone.
    """
    for component in (name for name in index if (folder / name).is_dir() and name not in absent):
        files = sorted(filter(_is_weights, (folder / component).glob("*")))
        pickles = [f.name for f in (folder / component).glob("*") if f.suffix in (".bin", ".pt", ".ckpt")]
        if pickles and not files:
            raise ValueError(
                f"{where}: {component}/{pickles[0]} is a pickle, which can run code of its author when "
                "loaded; only .safetensors files are read"
            )
        for file in files:
            try:
                with safe_open(file, framework="pt"):
                    pass
            except SafetensorError as error:
                raise ValueError(
                    f"{where}: {component}/{file.name} ({file.stat().st_size} bytes) is not a whole "
                    f"safetensors file: {error}; it was cut short or damaged, fetch or copy it again"
                ) from error


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Loading takes a moment; half a dozen bars would hide the lines that matter."""
    shown = [m for m in (diffusers_logging, transformers_logging) if m.is_progress_bar_enabled()]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


def read_transformer_config(path: str, revision: str | None = None) -> dict[str, Any]:
    """The backbone's ``config.json``, read without loading weights.

    Args:
        path: As in :func:`pipeline_folder`; from the hub, only this one file is fetched.
        revision: As in :func:`pipeline_folder`.
    """
    place = Path(resolve_path(path))
    if place.is_dir():
        file = pipeline_folder(path) / "transformer" / "config.json"
    else:
        try:
            file = Path(hf_hub_download(path, "transformer/config.json", revision=revision))
        except (*HUB_ERRORS, ValueError) as error:
            raise ValueError(
                f"model.path={path} is neither a folder here nor a pipeline the hub delivers: {error}"
            ) from error
    return json.loads(file.read_text(encoding="utf-8"))


def _is_weights(file: Path) -> bool:
    """Whether a file holds weights that are read; variants such as ``model.fp16.safetensors`` are not."""
    return file.suffix == ".safetensors" and "." not in file.stem


def pipeline_identity(folder: Path, components: Sequence[str]) -> str:
    """SHA-256 over the configs and safetensors files that make up a base model.

    Variants such as ``model.fp16.safetensors``, which a folder may or may not hold, are left out.

    Args:
        folder: The pipeline's.
        components: Folders in it that count, in the order they are read.
    """
    digest = hashlib.sha256()
    for component in components:
        for file in sorted((folder / component).glob("*")):
            if _is_weights(file) or file.name in _IDENTITY_CONFIGS:
                digest.update(f"{component}/{file.name} {cached_sha256_of(file)}\n".encode())
    return digest.hexdigest()


def encoding_identity(folder: Path, encoders: Sequence[str]) -> str:
    """SHA-256 over the text encoders' configs and weights, and all files of their tokenizers.

    Args:
        folder: The pipeline's.
        encoders: Names of its text encoders; the tokenizer of ``text_encoder_2`` is ``tokenizer_2``.
    """
    digest = hashlib.sha256(pipeline_identity(folder, encoders).encode())
    for encoder in encoders:
        tokenizer = folder / encoder.replace("text_encoder", "tokenizer")
        for file in sorted(file for file in tokenizer.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(folder)} {cached_sha256_of(file)}\n".encode())
    return digest.hexdigest()
