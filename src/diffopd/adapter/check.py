"""Does a saved adapter fit a backbone? Answered from JSON and a safetensors header, before weights load."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open
from torch import nn

from diffopd.adapter.lora import LoRA
from diffopd.adapter.merge import MergePlan, check_shape
from diffopd.files import resolve_path

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT puts before every key, so that ``PeftModel`` loads the folder."""

_UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")


def check_adapter(folder: Path, base_config: Mapping[str, Any], *, setting: str) -> LoraConfig:
    """Compare a PEFT folder with the backbone it is meant for.

    Args:
        folder: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        base_config: The transformer's ``config.json``.
        setting: Where the folder is named in the config, for the message, e.g. ``teacher.teachers.ocr.path``.

    Returns:
        The adapter's PEFT config.

    Raises:
        ValueError: If a file is missing or the adapter does not fit, with both shapes.
    """
    where = f"{setting}={folder}"
    config = read_adapter_config(folder, setting=setting)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    expected = expected_shapes(config, base_config)
    if not expected:
        raise ValueError(
            f"{where}: target_modules {sorted(config.target_modules or ())} match no layer of the model's "
            "transformer; the adapter was made for another architecture"
        )
    for key in sorted(set(found) & set(expected)):
        if found[key] != expected[key]:
            raise ValueError(
                f"{where}: {key} has shape {found[key]}, this model and rank {config.r} in {CONFIG} need "
                f"{expected[key]}; use the model the adapter was trained on, or retrain the adapter"
            )
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{where}: {WEIGHTS} has {len(found)} tensors, this model and {CONFIG} need {len(expected)}; "
            f"{len(missing)} missing (first: {missing[:1]}), {len(extra)} unexpected (first: {extra[:1]}); "
            "use the model the adapter was trained on, or retrain the adapter"
        )
    return config


def check_start(adapter: LoRA, base_config: Mapping[str, Any]) -> None:
    """Compare the folders an adapter starts from, if it names any, with the backbone and its own shape.

    Args:
        adapter: The adapter to train.
        base_config: The transformer's ``config.json``.

    Raises:
        ValueError: If the two do not fit.
    """
    if adapter.merge_plan is not None:
        check_merge(adapter, adapter.merge_plan, base_config)
    if adapter.start is None:
        return
    found = check_adapter(Path(resolve_path(adapter.start)), base_config, setting="adapter.start")
    own = adapter.peft_config()
    if (found.r, found.lora_alpha) != (own.r, own.lora_alpha):
        raise ValueError(
            f"adapter.start={adapter.start} has rank {found.r} and alpha {found.lora_alpha}, this run's "
            f"adapter has {own.r} and {own.lora_alpha}; "
            f"set adapter.rank={found.r} adapter.alpha={found.lora_alpha}"
        )
    if expected_shapes(found, base_config) != expected_shapes(own, base_config):
        raise ValueError(
            f"adapter.start={adapter.start} lies on other layers ({sorted(found.target_modules or ())}) than "
            f"adapter.target_modules={list(adapter.target_modules)}; set these to the same"
        )


def check_merge(adapter: LoRA, plan: MergePlan, base_config: Mapping[str, Any]) -> list[LoraConfig]:
    """Compare the adapters of a merge with the backbone, each other and the adapter they become.

    Args:
        adapter: The adapter to train.
        plan: The merge it starts from.
        base_config: The transformer's ``config.json``.

    Returns:
        The PEFT config of each.

    Raises:
        ValueError: If one does not fit.
    """
    own, found = expected_shapes(adapter.peft_config(), base_config), []
    for number, folder in enumerate(plan.folders):
        setting = f"adapter.merge.folders.{number}"
        config = check_adapter(Path(resolve_path(folder)), base_config, setting=setting)
        if set(expected_shapes(config, base_config)) != set(own):
            raise ValueError(
                f"{setting}={folder} lies on other layers ({sorted(config.target_modules or ())}) than "
                f"adapter.target_modules={list(adapter.target_modules)}; set these to the same"
            )
        found.append(config)
    shapes = [(config.r, strength_of(config)) for config in found]
    check_shape(plan.method, shapes, rank=adapter.rank, strength=adapter.strength)
    return found


def strength_of(config: LoraConfig) -> float:
    """What PEFT scales the product ``B A`` of an adapter by."""
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def read_adapter_config(folder: Path, *, setting: str) -> LoraConfig:
    """The PEFT config in ``folder``.

    Raises:
        ValueError: If a file is missing, or it is not a plain LoRA.
    """
    where = f"{setting}={folder}"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{where}: there is no {name}; give a folder in PEFT's format")
    raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"{where}: peft_type is {raw.get('peft_type')}; only LORA is read")
    used = [key for key in _UNSUPPORTED if raw.get(key)]
    if used or raw.get("bias", "none") != "none":
        raise ValueError(f"{where}: {used or ['bias']} in {CONFIG} is not supported; only plain LoRA is read")
    known = set(LoraConfig.__dataclass_fields__)
    return LoraConfig(**{key: value for key, value in raw.items() if key in known and key != "peft_type"})


def expected_shapes(config: LoraConfig, base_config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor the adapter has on the backbone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in _weightless(base_config).named_modules():
        if isinstance(module, nn.Linear) and check_target_module_exists(config, path):
            shapes[f"{PREFIX}{path}.lora_A.weight"] = (config.r, module.in_features)
            shapes[f"{PREFIX}{path}.lora_B.weight"] = (module.out_features, config.r)
    return shapes


def _weightless(base_config: Mapping[str, Any]) -> nn.Module:
    """The backbone without memory for its weights."""
    architecture = getattr(diffusers, base_config["_class_name"])
    with torch.device("meta"):
        return architecture.from_config(dict(base_config))
