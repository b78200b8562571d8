"""What a training learns from beside its config: weights and prompts that its paths name, by content."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from diffopd.config.folder import flat_settings
from diffopd.files.fingerprint import cached_sha256_of
from diffopd.files.names import ADAPTER_CONFIG, CARD_FILE, MODEL_CONFIG
from diffopd.files.paths import resolve_path
from diffopd.files.sealed import DamagedFileError
from diffopd.weights.hashing import hash_ahead

ALWAYS = ("data", "phase", "pipeline")
"""Config groups that every phase uses, if they are there."""
_READ = (".safetensors", ".json", ".jsonl", ".txt", ".model", ".onnx", ".yaml")
"""Endings of the files that count in a folder without a format of its own."""


def inputs_of(values: Mapping[str, Any], groups: Collection[str]) -> dict[str, str]:
    """Fingerprints of the files that a training's result depends on.

    Args:
        values: The composed config as plain values.
        groups: Config groups that the phase takes.

    Returns:
        Config path -> SHA-256 over what lies there: each teacher, the anchor, the adapters to start from, the
        base model with the text encoders in use, prompt files, local weights of scorers. The path itself is
        no part of it. Scorers on the hub and on servers are not looked at.

    Raises:
        ValueError: If something cannot be read.
    """
    used = {group: values[group] for group in (*ALWAYS, *groups) if values.get(group) is not None}
    found = {setting: _fingerprint(values, setting, value) for setting, value in flat_settings(used)}
    return {setting: value for setting, value in found.items() if value is not None}


def fingerprint(values: Mapping[str, Any], setting: str) -> str | None:
    """The same of one setting; None if it names no input, or nothing."""
    return _fingerprint(values, setting, dict(flat_settings(values)).get(setting))


def _fingerprint(values: Mapping[str, Any], setting: str, value: Any) -> str | None:
    kind = next((kind for pattern, kind in _KINDS.items() if _matches(setting, pattern)), None)
    return kind(values, setting, value) if kind is not None and value else None


def _adapters(values: Mapping[str, Any], setting: str, value: Any) -> str:
    """Adapters or whole transformers: weights, the config beside them, the guidance their card asks for."""
    from diffopd.adapter import find_card, find_place

    lines = []
    for path in [value] if isinstance(value, str) else value:
        place = find_place(path, setting=setting)
        folder = place.path if place.path.is_dir() else place.path.parent
        beside = [folder / name for name in (ADAPTER_CONFIG, MODEL_CONFIG)]
        lines += _lines(folder, [*place.weights, *(file for file in beside if file.is_file())])
        card = find_card(path)
        if card is not None:
            lines.append(f"guidance {_guidance(card)}")
    return _digest(lines)


def _guidance(card: Path) -> Any:
    """What a card says of it; one that others wrote may say less than ours."""
    try:
        found = json.loads(card.read_bytes())
    except ValueError as error:
        raise DamagedFileError(card, f"not JSON ({error})") from error
    return found.get("guidance_scale") if isinstance(found, dict) else None


def _base(values: Mapping[str, Any], setting: str, value: str) -> str:
    """The base model, and the text encoders and tokenizers that its prompt length needs."""
    from diffopd.model.identity import encoding_identity, pipeline_identity
    from diffopd.model.loading import whole_pipeline

    model = values["model"]
    module, _, name = str(model["_target_"]).rpartition(".")
    family: Any = getattr(importlib.import_module(module), name)
    left_out = family.left_out(model["text_length"])
    _, components = whole_pipeline(value, kind=family.kind, revision=model["revision"], without=left_out)
    encoders = [encoder for encoder in family.encoders if encoder in components]
    hash_ahead([file for part in components.values() for file in part.weights], "base weights")
    return _digest(
        [
            pipeline_identity(components, family.identity_components),
            encoding_identity(components, encoders),
        ]
    )


def _local(values: Mapping[str, Any], setting: str, value: Any) -> str | None:
    """A file, or a folder's weights and tables; None for what is not on this disk."""
    if not isinstance(value, str):
        return None
    place = Path(resolve_path(value))
    if place.is_file():
        return _digest([cached_sha256_of(place)])
    if not place.is_dir():
        return None
    files = (file for file in place.rglob("*") if file.suffix in _READ and file.name != CARD_FILE)
    return _digest(_lines(place, [file for file in files if file.is_file()]))


def _pictures(values: Mapping[str, Any], setting: str, value: str) -> str | None:
    """Pictures with their captions; what else their folder holds does not count."""
    from diffopd.data.pair_files import caption_keys, read_captions

    data = values["data"]
    if "captions" not in data:  # a data module of the user's own
        return _local(values, setting, value)
    keys = caption_keys(data["caption_key"], data.get("template"))
    files = read_captions(value, data["captions"], data["picture_key"], keys, data.get("rejected_key"))
    told = (json.dumps([file.name, file.captions, file.rest], sort_keys=True) for file in files)
    lines = [f"{cached_sha256_of(file.file)} {text}" for file, text in zip(files, told, strict=True)]
    if key := data.get("reference_key"):
        folder = Path(resolve_path(value))
        lines += [line for file in files for line in _references(file.entry(key), folder, file.where)]
    lines += [f"rejected {cached_sha256_of(file.rejected)}" for file in files if file.rejected]
    return _digest(lines)


def _prompts(values: Mapping[str, Any], setting: str, value: Any) -> str | None:
    """A prompt file with the reference pictures that it names, which are hashed and not decoded."""
    from diffopd.data.prompt_files import json_value, lines_of

    place = Path(resolve_path(value)) if isinstance(value, str) else None
    if place is None or place.suffix != ".jsonl" or not place.is_file():
        return _local(values, setting, value)
    digest = cached_sha256_of(place)
    if b'"references"' not in place.read_bytes():  # most files have none and a million lines
        return _digest([digest])
    records = (
        (number, json_value(line, place, number)) for number, line in lines_of(place, f"{setting}={value}")
    )
    shown = [
        file
        for number, record in records
        if isinstance(record, dict)
        for file in _references(record.get("references"), place.parent, f"{place}, line {number}")
    ]
    return _digest([digest, *shown])


def _references(value: Any, folder: Path, where: str) -> list[str]:
    """Hashes of the reference pictures that a line names."""
    from diffopd.data.reference_files import reference_places

    places = reference_places(value, folder, where)
    try:
        return [cached_sha256_of(place) for place in places]
    except OSError as error:
        raise ValueError(
            f"{where}: the reference picture {error.filename} cannot be read ({error.strerror})"
        ) from error


def _kept(values: Mapping[str, Any], setting: str, value: Any) -> str | None:
    """One prompt file, or several."""
    files = [value] if isinstance(value, str) else value
    found = [_prompts(values, setting, file) for file in files]
    return _digest([digest for digest in found if digest is not None])


_KINDS: Mapping[str, Callable[[Mapping[str, Any], str, Any], str | None]] = {
    "teacher.teachers.*.path": _adapters,
    "regulariser.path": _adapters,
    "phase.assistant": _adapters,
    "adapter.start": _adapters,
    "adapter.merge.folders": _adapters,
    "model.path": _base,
    "model.vision_tower": _local,
    "pipeline.path": _local,
    "pipeline.autoencoder": _local,
    "data.path": _pictures,
    "data.tasks.*.path": _prompts,
    "data.keep.path": _kept,
    "routing.tasks.*.path": _local,
    "reward.**path": _local,
    "phase.held_out.**path": _local,
}
"""Config path (``*`` for one part, ``**`` for any) -> how what it names is read."""


def _matches(setting: str, pattern: str) -> bool:
    return fnmatchcase(setting, pattern) and ("**" in pattern or setting.count(".") == pattern.count("."))


def _lines(folder: Path, files: Iterable[Path]) -> list[str]:
    """Name and content of each file."""
    files = list(files)
    hash_ahead(files, "weights")
    return [f"{file.relative_to(folder)} {cached_sha256_of(file)}" for file in sorted(files)]


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
