"""Frozen weights under a name: a LoRA on the backbone, or a whole transformer beside it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from diffopd.adapter import Place, check_adapter, find_place, load_adapter, read_shapes, weightless
from diffopd.files.names import MODEL_CONFIG
from diffopd.model import Backbones, check_finite, load_component
from diffopd.teacher.card import CARD, TeacherCard
from diffopd.types import VelocityModel
from diffopd.weights.files import check_model_config, check_weight_files, read_json

log = logging.getLogger(__name__)


class AdaptedModel(VelocityModel, Protocol):
    """A velocity model with room for adapters and for whole transformers."""

    transformer: Any
    backbones: Backbones

    @property
    def identity(self) -> str:
        """Hash of the base model."""
        ...


_INTERFACE = (
    "_class_name",
    "in_channels",
    "out_channels",
    "joint_attention_dim",
    "pooled_projection_dim",
    "cap_feat_dim",
    "guidance_embeds",
)
"""Settings of a transformer that what goes in and what comes out depend on; depth and width may differ."""


def check_frozen(path: str | Path, base_config: Mapping[str, Any], *, setting: str) -> None:
    """Compare saved weights with the backbone, before any weights load.

    Args:
        path: As in :func:`~diffopd.adapter.find_place`.
        base_config: The transformer's ``config.json``.
        setting: Where they are named in the config, for the message.

    Raises:
        ValueError: If they cannot be read or do not fit, with both shapes.
    """
    place = find_place(path, setting=setting)
    if place.kind == "transformer":
        _check_whole(place, base_config)
    else:
        check_adapter(path, base_config, setting=setting)


def load_frozen(
    model: AdaptedModel, name: str, path: str | Path, *, setting: str, offload_idle: bool = False
) -> None:
    """Add saved weights to a model under ``name``, frozen.

    A LoRA lies on the backbone. A whole transformer, in the backbone's precision, takes memory of its own.

    Args:
        model: Answers for ``name`` from here on.
        name: Its name.
        path: As in :func:`~diffopd.adapter.find_place`.
        setting: Where they are named in the config, for the message.
        offload_idle: Keep a whole transformer on the CPU while it is not asked.

    Raises:
        ValueError: If they cannot be read or do not fit.
    """
    place = find_place(path, setting=setting)
    if place.kind != "transformer":
        load_adapter(model.transformer, name, path, setting=setting)
        return
    own = model.transformer
    _check_whole(place, {**own.config, "_class_name": type(own).__name__})
    transformer = load_component(type(own), place.path, dtype=own.dtype, where=place.where)
    check_finite(transformer, place.where, setting="model.dtype")
    if offload_idle:
        model.backbones.add(name, transformer, rests=True)
    else:
        model.backbones.add(name, transformer.to(own.device))


def check_base_of(card: TeacherCard | None, model: AdaptedModel, given: str, switch: str) -> None:
    """Refuse weights that were trained on another base model; without a card, note that nobody knows.

    Args:
        card: Their card, if they have one.
        model: The model they are to lie on.
        given: Where the config names them and as what, for the message.
        switch: The setting that switches this check off.

    Raises:
        ValueError: If the card names another base.
    """
    if card is None:
        text = "note: %s has no %s; whether it was trained on this base model is not checked"
        log.warning(text, given, CARD)
    elif card.base != model.identity:
        raise ValueError(
            f"{given} was trained on base {card.base[:12]}, this model is {model.identity[:12]}; "
            f"use that base, retrain the teacher, or set {switch}=false"
        )


def _check_whole(place: Place, base_config: Mapping[str, Any]) -> None:
    config = _read_config(place)
    check_model_config(place.path, config, place.where)
    for key in _INTERFACE:
        if config.get(key) != base_config.get(key):
            raise ValueError(
                f"{place.where} is a transformer with {key}={config.get(key)}, this model's has "
                f"{base_config.get(key)}; a teacher takes the same latents and prompts as its student"
            )
    architecture = weightless(config)
    expected = {key: tuple(value.shape) for key, value in architecture.state_dict().items()}
    check_weight_files(place.weights, place.where)
    found: dict[str, tuple[int, ...]] = {}
    for file in place.weights:
        found |= read_shapes(file, place.where)
    wrong = [key for key in expected if key in found and found[key] != expected[key]]
    if wrong:
        raise ValueError(
            f"{place.where}: {wrong[0]} has shape {found[wrong[0]]}, its config.json needs "
            f"{expected[wrong[0]]}; use weights and config of one model"
        )
    ignored = getattr(architecture, "_keys_to_ignore_on_load_unexpected", None) or ()
    strangers = sorted(
        key for key in set(found) - set(expected) if not any(re.search(pattern, key) for pattern in ignored)
    )
    if strangers:
        raise ValueError(
            f"{place.where}: {len(strangers)} tensors have no place in the model of its config.json (first: "
            f"{strangers[0]}); use weights and config of one model"
        )
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ValueError(
            f"{place.where}: {len(missing)} of {len(expected)} tensors are missing (first: {missing[0]}); "
            f"its safetensors files: {', '.join(file.name for file in place.weights) or 'none'}. Fetch or "
            "copy the folder again"
        )


def _read_config(place: Place) -> dict[str, Any]:
    config = read_json(place.path / MODEL_CONFIG, f"{place.where}: {MODEL_CONFIG}")
    if "_class_name" not in config:
        raise ValueError(f"{place.where}: {MODEL_CONFIG} is not that of a diffusers model (no _class_name)")
    return config
