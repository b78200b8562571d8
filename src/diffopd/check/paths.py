"""Are the folders there that a config names, and do adapters fit the model? Answered before weights load."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffopd.check.error import ConfigError
from diffopd.check.setting import phase_takes
from diffopd.config.folder import flat_settings
from diffopd.files.names import CARD_FILE

WRITTEN = (
    "paths.checkpoints",
    "callbacks.*folder",
    "logger.*.folder",
    "logger.*.save_dir",
    "logger.*.root_dir",
    "logger.*.artifact_location",
    "trainer.default_root_dir",
    "phase.output",
    "model.prompt_cache",
    "to",
    "out",
)
"""Settings that name a folder to write to."""
WRITTEN_FILES = ("callbacks.*.file",)
"""Settings that name a file to write, in a folder that is made for it."""


def path_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Folders and files that are named and not there, as one sentence each."""
    # These bring torch, so only for a config that is sound otherwise.
    from diffopd.files.paths import why_not_writable
    from diffopd.weights.pipeline_path import local_pipeline

    run = (values.get("paths") or {}).get("run")
    if isinstance(run, str) and (why := why_not_writable(run)):
        yield f"paths.run={run}: {why}; choose another place with paths.root=..."
    else:
        for setting, folder in flat_settings(values):
            if isinstance(folder, str) and any(fnmatchcase(setting, pattern) for pattern in WRITTEN):
                if folder and (why := _why_not_writable(folder)):
                    yield f"{setting}={folder}: {why}; give a folder that can be made"
            elif isinstance(folder, str) and any(fnmatchcase(setting, file) for file in WRITTEN_FILES):
                if folder and (why := _why_not_writable(str(Path(folder).parent))):
                    yield f"{setting}={folder}: {why}; give a file in a folder that can be made"

    yield from _port_problems(values)
    model = values.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("path"), str) and phase_takes(values, "model"):
        try:
            local_pipeline(model["path"])
        except ValueError as error:
            yield str(error)
    teachers = (values.get("teacher") or {}).get("teachers") if phase_takes(values, "teacher") else None
    for task, entry in (teachers or {}).items():
        setting = f"teacher.teachers.{task}"
        yield from _adapter_place(f"{setting}.path", entry["path"])
        if entry["guidance_scale"] is None:
            yield from _card(f"{setting}.path", entry["path"], f"{setting}.guidance_scale")
    anchor = (values.get("regulariser") or {}).get("path") if phase_takes(values, "regulariser") else None
    if isinstance(anchor, str):
        yield from _adapter_place("regulariser.path", anchor)
    if isinstance(assistant := (values.get("phase") or {}).get("assistant"), str):
        yield from _adapter_place("phase.assistant", assistant)
    adapter = (values.get("adapter") or {}) if phase_takes(values, "adapter") else {}
    if isinstance(adapter.get("start"), str):
        yield from _adapter_place("adapter.start", adapter["start"])
    for number, path in enumerate((adapter.get("merge") or {}).get("folders") or ()):
        yield from _adapter_place(f"adapter.merge.folders.{number}", path)
    if isinstance(values.get("adapter_path"), str):
        yield from _adapter_place("adapter_path", values["adapter_path"])
    yield from _prompt_files(values)


def _prompt_files(values: Mapping[str, Any]) -> Iterator[str]:
    """Prompts to train on, and those that samples, a report at the end, days later, or an evaluation need."""
    from diffopd.files.paths import resolve_path

    samples = (values.get("callbacks") or {}).get("samples") or {}
    drawn = (samples.get("every_n_rounds") or samples.get("shares")) and samples.get("prompts") is None
    reported = "phase" not in values or values.get("report") or drawn
    for group in ("data", "benchmark") if reported else ("data",):
        node = values.get(group)
        if not isinstance(node, Mapping):
            continue
        tasks = node.get("tasks") if isinstance(node.get("tasks"), Mapping) else {}
        named = {group: node} | {f"{group}.tasks.{task}": entry for task, entry in (tasks or {}).items()}
        for setting, entry in named.items():
            path = entry.get("path") if isinstance(entry, Mapping) else None
            if setting == "data":  # a folder of pictures, which is read before weights load
                continue
            if not isinstance(path, str):
                continue
            file = Path(resolve_path(path))
            pictures = setting.startswith("benchmark") and file.is_dir()  # whose captions are the prompts
            if not file.is_file() and not pictures:
                yield f"{setting}.path={path}: there is no such file ({file.absolute()})"


def _port_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Can processes that Lightning starts by itself meet at the port that the environment names?"""
    trainer, port = values.get("trainer") or {}, os.environ.get("MASTER_PORT", "")
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    count = devices * nodes if isinstance(devices, int) and isinstance(nodes, int) else 1
    started = {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & set(os.environ)  # who did holds the port already
    if count < 2 or started or not port:
        return
    if not port.isdigit() or not 0 < int(port) < 65536:
        yield f"the environment's MASTER_PORT={port} must be a port, 1 to 65535; leave it out for a free one"
        return
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind(("", int(port)))
        except OSError as error:
            yield (
                f"the environment's MASTER_PORT={port}, where {count} processes are to meet, "
                f"cannot be used ({error.strerror}); leave it out for a free one"
            )


def _adapter_place(setting: str, path: str) -> Iterator[str]:
    """Is there a folder or file, or may the hub have one? What is in it is looked at when it is read."""
    from diffopd.weights.hub_path import why_no_place

    if (why := why_no_place(path)) is not None:
        yield (
            f"{setting}={path}: {why}; give a PEFT folder, a .safetensors file, the folder of a whole "
            "transformer, or owner/name on the hub"
        )


def _card(setting: str, path: str, guidance: str) -> Iterator[str]:
    """Weights whose guidance the config does not say have a card that does."""
    from diffopd.files.paths import resolve_path

    place = Path(resolve_path(path))
    if place.exists() and not (place / CARD_FILE).is_file():
        yield (
            f"{setting}={path}: {place} holds no {CARD_FILE}, which has a teacher's task and guidance; "
            f"set {guidance} to the guidance it was trained for, as in {guidance}=4.5 (1 = CFG off)"
        )


def check_fit(cfg: DictConfig, parts: Mapping[str, Any]) -> None:
    """Compare the adapters of a training with the model's config, read without its weights.

    Args:
        cfg: The composed config.
        parts: What is built so far: ``adapter``, ``teacher`` and ``regulariser``, if the phase has them.

    Raises:
        ConfigError: If one does not fit.
    """
    from diffopd.adapter import LoRA, check_adapter, check_start
    from diffopd.model import read_transformer_config

    if not {"adapter", "teacher", "regulariser"} & set(parts):
        return
    base = read_transformer_config(cfg.model.path, cfg.model.revision)
    scales = getattr(parts.get("teacher"), "guidance_scales", {})
    for name, scale in scales.items():
        if cfg.model.get("step_distilled") and scale != 1:
            raise ConfigError(
                f"teacher {name} is asked at guidance {scale:g}, but model.step_distilled=true: a "
                f"guidance-distilled model takes no other scale; set teacher.teachers.{name}.guidance_scale=1"
            )
    try:
        if isinstance(parts.get("adapter"), LoRA):  # whole weights start as the base model, which fits
            check_start(parts["adapter"], base)
        for group in ("teacher", "regulariser"):
            if group in parts:
                parts[group].check(base)
        if cfg.phase.get("assistant"):
            check_adapter(cfg.phase.assistant, base, setting="phase.assistant")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _why_not_writable(folder: str) -> str | None:
    from diffopd.files.paths import expanded, why_not_writable

    try:
        return why_not_writable(expanded(folder))
    except ValueError as error:
        return str(error)
