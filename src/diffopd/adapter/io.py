"""Adapters on disk: PEFT folders to train on from, and the file that stock diffusers loads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from diffopd.adapter.check import check_layers, check_merge, check_start, read_fitting
from diffopd.adapter.layout import PREFIX
from diffopd.adapter.location import LORA_FILE, WEIGHTS
from diffopd.adapter.lora import LoRA, adapter_parameters, adapter_strength, inject, strength_of
from diffopd.adapter.merge import A, B, MergeError, MergePart, merge_adapters
from diffopd.files.atomic import atomic_produce, atomic_save_safetensors, atomic_write_json
from diffopd.files.names import ADAPTER_CONFIG


def self_contained(transformer: Any, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An adapter whose product ``B A`` is all that it adds, whether a reader knows of alpha or not.

    PEFT and diffusers scale by alpha / rank, which they find in a config or a header; ComfyUI looks for
    neither and scales by 1. So the strength goes into ``B`` here and alpha is the rank. With a strength that
    is a power of two the model stays the same bit for bit; with another ``B`` is rounded once, in fp32.

    Args:
        transformer: Holds the adapter.
        name: Which one.

    Returns:
        ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``, and PEFT's settings that go with them.
    """
    strength = adapter_strength(transformer, name)
    factors = {
        key: value.detach() * strength if key.endswith(B) else value.detach()
        for key, value in adapter_parameters(transformer, name).items()
    }
    settings = _plain(transformer.peft_config[name].to_dict())
    return factors, {**settings, "lora_alpha": settings["r"], "use_rslora": False}


def save_adapter(transformer: Any, name: str, folder: str | PathLike[str]) -> Path:
    """Write an adapter as a PEFT folder; each file is whole or absent.

    Its strength is in its factors, see :func:`self_contained`.

    Args:
        transformer: Holds the adapter.
        name: Which one.
        folder: Gets ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns:
        The folder.
    """
    folder = Path(folder)
    factors, settings = self_contained(transformer, name)
    atomic_save_safetensors(folder / WEIGHTS, {PREFIX + key: value for key, value in factors.items()})
    atomic_write_json(folder / ADAPTER_CONFIG, settings)
    return folder


def load_adapter(transformer: Any, name: str, path: str | Path, *, setting: str = "adapter.path") -> None:
    """Add a saved LoRA of any layout under ``name``, frozen.

    Args:
        transformer: The backbone.
        name: Its name from here on.
        path: As in :func:`~diffopd.adapter.location.find_place`.
        setting: Where it is named in the config, for messages.

    Raises:
        ValueError: If it cannot be read or does not fit.
    """
    base_config = {**transformer.config, "_class_name": type(transformer).__name__}
    saved = read_fitting(path, base_config, setting=setting)
    inject(transformer, name, saved.config)
    with torch.no_grad():
        for key, parameter in adapter_parameters(transformer, name).items():
            parameter.copy_(saved.factors[key])


def add_started_adapter(transformer: Any, name: str, config: LoRA) -> None:
    """Add an adapter in fp32 that starts as ``config.start``, frozen.

    It has the rank and strength of ``config``. Where the saved one's strength is another, ``B`` makes up for
    it, so that the model starts as the saved adapter is.

    Args:
        transformer: The backbone.
        name: What calls of ``velocity`` will name it.
        config: Its shape and the adapter it starts from.

    Raises:
        ValueError: If ``config`` names no start, or it cannot be read or does not fit.
    """
    base_config = {**transformer.config, "_class_name": type(transformer).__name__}
    saved = check_start(config, base_config)
    if saved is None:
        raise ValueError("adapter.start is null; name the adapter to start from")
    inject(transformer, name, config.peft_config())
    ratio = strength_of(saved.config) / config.strength
    with torch.no_grad():
        for key, parameter in adapter_parameters(transformer, name).items():
            parameter.copy_(
                saved.factors[key] if key.endswith(A) or ratio == 1 else saved.factors[key].float() * ratio
            )


def add_merged_adapter(transformer: Any, name: str, config: LoRA) -> MergeError:
    """Add an adapter in fp32 that starts as the merge ``config.merge`` asks for, frozen.

    Args:
        transformer: The backbone.
        name: What calls of ``velocity`` will name it.
        config: Its shape and the adapters to merge.

    Returns:
        How far it is from the mean of what the adapters add to the weights.

    Raises:
        ValueError: If ``config`` names no merge, or an adapter does not fit.
    """
    plan = config.merge_plan
    if plan is None:
        raise ValueError("adapter.merge is null; name the adapters to merge, as in adapter=merged_exact")
    base_config = {**transformer.config, "_class_name": type(transformer).__name__}
    check_layers(config, base_config)
    parts = [
        MergePart(factors=saved.factors, strength=strength_of(saved.config), share=share)
        for saved, share in zip(check_merge(config, plan, base_config), plan.shares, strict=True)
    ]
    values, error = merge_adapters(plan.method, parts, rank=config.rank, strength=config.strength)
    inject(transformer, name, config.peft_config())
    with torch.no_grad():
        for key, parameter in adapter_parameters(transformer, name).items():
            parameter.copy_(values[key])
    return error


def export_lora(transformer: Any, name: str, folder: str | PathLike[str]) -> Path:
    """Write an adapter as the file that the ``load_lora_weights`` of its stock pipeline loads.

    All families of :mod:`diffopd.model` name a backbone's adapter alike, so one class writes for all.

    Its strength is in its factors, see :func:`self_contained`; the PEFT config in the header says the same.

    Args:
        transformer: Holds the adapter.
        name: Which one.
        folder: Gets ``pytorch_lora_weights.safetensors``.

    Returns:
        The file.
    """
    path = Path(folder) / LORA_FILE
    factors, settings = self_contained(transformer, name)

    def write(temporary: Path) -> None:
        with tempfile.TemporaryDirectory(dir=temporary.parent) as scratch:
            StableDiffusion3Pipeline.save_lora_weights(
                scratch,
                transformer_lora_layers=dict[str, Any](factors),
                transformer_lora_adapter_metadata=settings,
            )
            (Path(scratch) / LORA_FILE).replace(temporary)

    atomic_produce(path, write)
    return path


def _plain(value: Any) -> Any:
    """``value`` as JSON knows it; sets become sorted lists, so that files do not differ from run to run."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(entry) for entry in value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
