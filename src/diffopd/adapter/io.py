"""Adapters on disk: PEFT folders to train on from, and the file that stock diffusers loads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from peft import get_peft_model_state_dict

from diffopd.adapter.check import check_merge, read_fitting, strength_of
from diffopd.adapter.layout import PREFIX
from diffopd.adapter.lora import LoRA, adapter_parameters, inject
from diffopd.adapter.merge import MergeError, MergePart, merge_adapters
from diffopd.adapter.place import CONFIG, LORA_FILE, WEIGHTS
from diffopd.files import atomic_produce, atomic_save_safetensors, atomic_write_json


def save_adapter(transformer: Any, name: str, folder: str | PathLike[str]) -> Path:
    """Write an adapter as a PEFT folder; each file is whole or absent.

    Args:
        transformer: Holds the adapter.
        name: Which one.
        folder: Gets ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns:
        The folder.
    """
    folder = Path(folder)
    values = {PREFIX + key: value for key, value in adapter_parameters(transformer, name).items()}
    atomic_save_safetensors(folder / WEIGHTS, values)
    atomic_write_json(folder / CONFIG, _plain(transformer.peft_config[name].to_dict()))
    return folder


def load_adapter(transformer: Any, name: str, path: str | Path, *, setting: str = "adapter.path") -> None:
    """Add a saved LoRA of any layout under ``name``, frozen.

    Args:
        transformer: The backbone.
        name: Its name from here on.
        path: As in :func:`~diffopd.adapter.place.find_place`.
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

    The PEFT config goes into the header: without it diffusers takes the rank for alpha, and images differ.

    Args:
        transformer: Holds the adapter.
        name: Which one.
        folder: Gets ``pytorch_lora_weights.safetensors``.

    Returns:
        The file.
    """
    path = Path(folder) / LORA_FILE

    def write(temporary: Path) -> None:
        with tempfile.TemporaryDirectory(dir=temporary.parent) as scratch:
            StableDiffusion3Pipeline.save_lora_weights(
                scratch,
                transformer_lora_layers=dict[str, Any](
                    get_peft_model_state_dict(transformer, adapter_name=name)
                ),
                transformer_lora_adapter_metadata=_plain(transformer.peft_config[name].to_dict()),
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
