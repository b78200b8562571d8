"""Does a saved adapter fit a backbone? Answered before the backbone's weights load."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from diffopd.adapter.layout import SavedLoRA, read_lora
from diffopd.adapter.location import find_place
from diffopd.adapter.lora import LoRA, strength_of
from diffopd.adapter.merge import A, B, MergePlan, check_shape
from diffopd.adapter.peft_settings import STRENGTH_BOUND
from diffopd.adapter.stated import check_stated, log_once
from diffopd.adapter.targets import check_targets


def check_adapter(path: str | Path, base_config: Mapping[str, Any], *, setting: str) -> LoraConfig:
    """Compare a saved LoRA with the backbone it is meant for.

    Args:
        path: As in :func:`~diffopd.adapter.location.find_place`.
        base_config: The transformer's ``config.json``.
        setting: Where the adapter is named in the config, for the message.

    Returns:
        The adapter's shape in PEFT's words.

    Raises:
        ValueError: If it cannot be read or does not fit, with both shapes.
    """
    return read_fitting(path, base_config, setting=setting).config


def read_fitting(path: str | Path, base_config: Mapping[str, Any], *, setting: str) -> SavedLoRA:
    """Read a saved LoRA that fits the backbone.

    Args:
        path: As in :func:`~diffopd.adapter.location.find_place`.
        base_config: The transformer's ``config.json``.
        setting: Where the adapter is named in the config, for the message.

    Raises:
        ValueError: If it cannot be read or does not fit, with both shapes.
    """
    place = find_place(path, setting=setting)
    where = place.where
    if place.kind == "transformer":
        raise ValueError(
            f"{where} is a whole transformer, and a LoRA is needed here; a whole transformer can be a "
            "teacher, an anchor, or the adapter=... of evaluate and sample, and diffusers loads its folder "
            f"without an export: {base_config['_class_name']}.from_pretrained(...)"
        )
    check_stated(place)
    linear = linear_layers(base_config)
    saved = read_lora(place, base_config["_class_name"], linear)
    config, source = saved.config, saved.stated_in
    if not 1 / STRENGTH_BOUND <= strength_of(config) <= STRENGTH_BOUND:
        raise ValueError(
            f"{where} has scale {strength_of(config):.3g} (alpha / rank); it must be between "
            f"{1 / STRENGTH_BOUND:g} and {STRENGTH_BOUND:g}; outside this range the file is probably damaged"
        )
    found = {key: tuple(value.shape) for key, value in saved.factors.items()}
    expected = expected_shapes(config, base_config)
    if not expected:
        raise ValueError(
            f"{where}: target_modules {_listed(config)} match no layer of the model's "
            "transformer; the adapter was made for another architecture"
        )
    for key in sorted(set(found) & set(expected)):
        if found[key] != expected[key]:
            raise ValueError(
                f"{where}: {key} has shape {found[key]}, this model and rank {config.r} in {source} need "
                f"{expected[key]}; use the model the adapter was trained on, or retrain the adapter"
            )
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{where}: the file has {len(found)} tensors, this model and target_modules {_listed(config)} in "
            f"{source} need {len(expected)}; {len(missing)} missing (first: {missing[:1]}), {len(extra)} "
            f"unexpected (first: {extra[:1]}); use the model the adapter was trained on, or retrain it"
        )
    for key, value in saved.factors.items():
        if not value.float().isfinite().all():  # factors are used in fp32, which 1e300 is beyond
            raise ValueError(
                f"{where}: {key} holds values that are nan or infinite; the run that made it has diverged"
            )
    if not any(value.any() for key, value in saved.factors.items() if key.endswith(B)):
        log_once(
            f"{where} changes nothing: all of its B factors are 0, as before a first update. Was it the "
            "average of a run with fewer updates than phase.ema.update_interval?",
        )
    return saved


def _listed(config: LoraConfig) -> str:
    """The adapted layers, as the adapter names them, the first eight."""
    modules = config.target_modules or ()
    if isinstance(modules, str):
        return repr(modules)
    return str(sorted(modules)[:8])[:-1] + (", ...]" if len(modules) > 8 else "]")


def check_layers(adapter: LoRA, base_config: Mapping[str, Any]) -> None:
    """Check that each of an adapter's ``target_modules`` means a layer of the backbone.

    Args:
        adapter: The adapter to train.
        base_config: The transformer's ``config.json``.

    Raises:
        ValueError: If one matches nothing.
    """
    check_targets(adapter.target_modules, linear_layers(base_config), base_config["_class_name"])


def check_start(adapter: LoRA, base_config: Mapping[str, Any]) -> SavedLoRA | None:
    """Compare the folders an adapter starts from, if it names any, with the backbone and its own shape.

    A different scale (alpha / rank) is allowed: the start is scaled to the adapter's, which is logged.

    Args:
        adapter: The adapter to train.
        base_config: The transformer's ``config.json``.

    Returns:
        What ``adapter.start`` names, as it was read.

    Raises:
        ValueError: If the two do not fit.
    """
    check_layers(adapter, base_config)
    if adapter.merge_plan is not None:
        check_merge(adapter, adapter.merge_plan, base_config)
    if adapter.start is None:
        return None
    saved = read_fitting(adapter.start, base_config, setting="adapter.start")
    found, own = saved.config, adapter.peft_config()
    if saved.padded:
        raise ValueError(
            f"adapter.start={adapter.start} has layers of several ranks, up to {found.r}; the zeros that pad "
            "the smaller ones would never be trained. Start from an adapter of one rank, or reduce this one "
            f"to a single rank, as in adapter=merged_svd 'adapter.merge.folders=[{adapter.start}]'"
        )
    if found.r != own.r:
        alpha = found.r * adapter.strength
        raise ValueError(
            f"adapter.start={adapter.start} has rank {found.r}, this run's adapter has {own.r}; set "
            f"adapter.rank={found.r} and, for the same scale as now, adapter.alpha={alpha:g}"
        )
    if expected_shapes(found, base_config) != expected_shapes(own, base_config):
        raise ValueError(
            f"adapter.start={adapter.start} is for other layers ({_listed(found)}) than "
            f"adapter.target_modules={list(adapter.target_modules)}; set these to the same"
        )
    if (strength := strength_of(found)) != adapter.strength:
        log_once(
            f"note: adapter.start={adapter.start} has scale {strength:g}, this run's adapter "
            f"{adapter.strength:g} (adapter.alpha / adapter.rank); its factors B are scaled by "
            f"{strength / adapter.strength:g}, so the model starts with the same outputs",
            logging.INFO,
        )
    return saved


def check_merge(adapter: LoRA, plan: MergePlan, base_config: Mapping[str, Any]) -> list[SavedLoRA]:
    """Compare the adapters of a merge with the backbone, each other and the adapter they become.

    Args:
        adapter: The adapter to train.
        plan: The merge it starts from.
        base_config: The transformer's ``config.json``.

    Returns:
        Each, as it was read.

    Raises:
        ValueError: If one does not fit.
    """
    own, found = expected_shapes(adapter.peft_config(), base_config), []
    for number, folder in enumerate(plan.folders):
        setting = f"adapter.merge.folders.{number}"
        saved = read_fitting(folder, base_config, setting=setting)
        if set(saved.factors) != set(own):
            raise ValueError(
                f"{setting}={folder} is for other layers ({_listed(saved.config)}) than "
                f"adapter.target_modules={list(adapter.target_modules)}; set these to the same"
            )
        found.append(saved)
    ranks = [saved.config.r for saved in found]
    check_shape(plan.method, ranks, rank=adapter.rank, strength=adapter.strength)
    return found


def expected_shapes(config: LoraConfig, base_config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor the adapter has on the backbone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (inputs, outputs) in linear_layers(base_config).items():
        if check_target_module_exists(config, layer):
            shapes[layer + A] = (config.r, inputs)
            shapes[layer + B] = (outputs, config.r)
    return shapes


def linear_layers(base_config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Name of every linear layer of the backbone, with the width of its input and output."""
    return _linear_layers(json.dumps(dict(base_config), sort_keys=True))


@lru_cache(maxsize=4)
def _linear_layers(base_config: str) -> dict[str, tuple[int, int]]:
    """All teachers of a set lie on one base, which need not be built for each."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in weightless(json.loads(base_config)).named_modules()
        if isinstance(module, nn.Linear)
    }


def weightless(base_config: Mapping[str, Any]) -> nn.Module:
    """The backbone without memory for its weights.

    Raises:
        ValueError: If the config names no model of diffusers, or makes none.
    """
    name = base_config.get("_class_name")
    architecture: Any = getattr(diffusers, str(name), None)
    if not (isinstance(architecture, type) and issubclass(architecture, diffusers.ModelMixin)):
        raise ValueError(
            f"the transformer's config.json has _class_name={name}, which is not a model of diffusers "
            f"{diffusers.__version__}; fetch or copy the folder again"
        )
    try:
        with torch.device("meta"):
            return cast(Any, architecture).from_config(dict(base_config))
    except Exception as error:  # each model has its own, for whatever its settings make impossible
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"the transformer's config.json makes no {name} ({text}); fetch or copy the folder again"
        ) from error
