"""LoRA files of every layout as one: factors by the layer's name in diffusers, one rank, one strength.

| Layout | Keys of a layer |
|---|---|
| PEFT folder | ``base_model.model.<layer>.lora_A.weight``, ``.lora_B.weight``; rank and alpha in its JSON |
| diffusers | ``transformer.<layer>.lora_A.weight``, ``.lora_B.weight``; rank, alpha in its header if any |
| ComfyUI | ``diffusion_model.<name>`` or ``transformer.<layer>`` with either ending, and ``.alpha`` |
| kohya | ``lora_unet_<name, underscored>.lora_down.weight``, ``.lora_up.weight``, ``.alpha`` |
| OneTrainer | ``lora_transformer_<layer, underscored>``, and as ComfyUI and kohya |

A name is diffusers' or that of the authors' release, see :mod:`diffopd.adapter.layout_names`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from diffopd.adapter.layout_keys import Pair, read_pairs
from diffopd.adapter.layout_names import LayerNames
from diffopd.adapter.layout_shape import by_layer, one_shape
from diffopd.adapter.location import Place
from diffopd.adapter.peft_settings import plain_settings
from diffopd.adapter.safe_file import read_tensors
from diffopd.files.names import ADAPTER_CONFIG
from diffopd.weights.files import read_json

PREFIX = "base_model.model."
"""What PEFT puts before every key."""
METADATA = "lora_adapter_metadata"
"""Entry of the header in which diffusers keeps the PEFT config, each key after the component's name."""

_COMPONENT = "transformer."
_UNSUPPORTED = ("use_dora", "modules_to_save", "lora_bias")
_AGREEMENT = 1e-3
"""Relative difference of two statements of one strength that rounding in half precision may make."""


@dataclass(frozen=True)
class SavedLoRA:
    """A LoRA as it was read.

    Attributes:
        config: Its shape in PEFT's words; one rank and alpha for all layers.
        factors: ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``.
        stated_in: What states rank and layers, for messages.
        padded: Whether layers of a smaller rank were filled up with zeros.
    """

    config: LoraConfig
    factors: Mapping[str, Tensor]
    stated_in: str
    padded: bool = False


def read_lora(place: Place, family: str, layers: Mapping[str, tuple[int, int]]) -> SavedLoRA:
    """Read a LoRA; that its shapes fit the model is not looked at yet.

    Args:
        place: A ``peft`` folder or ``lora`` file.
        family: Class of the model's transformer, which decides how its layers may be called.
        layers: Names of the transformer's linear layers, with the width of their input and output.

    Raises:
        ValueError: If the file cannot be read, is no plain LoRA of a transformer, or has a key that nothing
            here understands.
    """
    file = place.weights[0]
    tensors, header = read_tensors(file, place.where)
    where = place.where if place.where.endswith(file.name) else f"{place.where}: {file.name}"
    pairs = read_pairs(tensors, LayerNames(family, layers), family, where)
    if place.kind == "peft":
        stated, source = read_peft_config(place), ADAPTER_CONFIG
    elif METADATA in header:
        stated, source = _read_header(header[METADATA], place.where), "the file's header"
    else:
        stated, source = None, file.name
    strengths = [_strength(pair, stated, source, where) for pair in pairs]
    found = by_layer(zip(pairs, strengths, strict=True), layers, where)
    is_theirs = all(pair.module.is_diffusers for pair in pairs)
    if stated is not None and is_theirs and not (stated.rank_pattern or stated.alpha_pattern):
        factors = {f"{layer}{end}": value for layer, part in found.items() for end, value in part.by_key}
        return SavedLoRA(stated, factors, source)
    shape = one_shape(found)
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=cast(int, shape.strength * shape.rank),  # PEFT only divides by the rank
        target_modules=_exactly(found, layers),
    )
    if stated is not None and is_theirs:
        config = dataclasses.replace(
            stated,
            r=config.r,
            lora_alpha=config.lora_alpha,
            rank_pattern={},
            alpha_pattern={},
            use_rslora=False,
        )
    return SavedLoRA(config, shape.factors, source, padded=shape.padded)


def _strength(pair: Pair, stated: LoraConfig | None, source: str, where: str) -> float:
    """What scales a module's product: by the config, else by its own alpha, else 1."""
    own = None if pair.alpha is None else pair.alpha / pair.rank
    if stated is None:
        return 1.0 if own is None else own  # as diffusers and ComfyUI read a file without alpha
    name = pair.module.name
    rank = _by_pattern(stated.rank_pattern, name, stated.r, f"{where}: rank_pattern in {source}")
    alpha = _by_pattern(stated.alpha_pattern, name, stated.lora_alpha, f"{where}: alpha_pattern in {source}")
    is_plain = pair.module.is_diffusers and not (stated.rank_pattern or stated.alpha_pattern)
    if rank != pair.rank and not is_plain:  # a plain one's shapes are compared with the model's later
        raise ValueError(
            f"{where}: layer {name} has rank {pair.rank}, and {source} states {rank}; use the config that "
            "was saved with these weights, or save both again"
        )
    strength = alpha / (math.sqrt(rank) if stated.use_rslora else rank)
    if own is not None and not math.isclose(own, strength, rel_tol=_AGREEMENT):
        raise ValueError(
            f"{where}: layer {name} has scale {own:g} by its alpha in the file, and {strength:g} by "
            f"{source}; save the adapter with one of them"
        )
    return strength


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any, where: str) -> Any:
    """A layer's own rank or alpha: that of the first pattern that PEFT matches with its name."""
    try:
        value = (patterns or {}).get(get_pattern_key(list(patterns or {}), name), default)
    except (re.error, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is not a mapping of layer patterns: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{where} gives {value!r} for {name}; a number above 0 is needed")
    return value


def _exactly(chosen: Collection[str], layers: Collection[str]) -> list[str] | str:
    """Target modules that are these layers alone: PEFT takes a name for the end of others' names as well."""
    ends, others = tuple(f".{layer}" for layer in chosen), set(layers) - set(chosen)
    if any(layer.endswith(ends) for layer in others):
        return "|".join(re.escape(layer) for layer in sorted(chosen))
    return sorted(chosen)


def read_peft_config(place: Place) -> LoraConfig:
    """The ``adapter_config.json`` of a PEFT folder.

    Raises:
        ValueError: If it is not that of a plain LoRA.
    """
    raw = read_json(place.path / ADAPTER_CONFIG, f"{place.where}: {ADAPTER_CONFIG}")
    return _plain_lora(raw, f"{place.where}: ", ADAPTER_CONFIG)


def _plain_lora(raw: Mapping[str, Any], where: str, source: str) -> LoraConfig:
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"{where}peft_type is {raw.get('peft_type')}; only LORA is read")
    used = [key for key in _UNSUPPORTED if raw.get(key)]
    if used or raw.get("bias") not in (None, "none"):
        raise ValueError(f"{where}{used or ['bias']} in {source} is not supported; only plain LoRA is read")
    if not isinstance(raw.get("r"), int) or raw["r"] < 1 or not raw.get("target_modules"):
        raise ValueError(
            f"{where}{source} has r={raw.get('r')} and target_modules={raw.get('target_modules')}; a rank of "
            "at least 1 and the names of the adapted layers are needed"
        )
    settings = plain_settings(raw, where, source)
    try:
        return LoraConfig(**settings)
    except (ValueError, TypeError) as error:  # settings that exclude each other, or are none to PEFT
        raise ValueError(f"{where}{source} is not a valid LoRA config for PEFT: {error}") from error


def _read_header(text: str, where: str) -> LoraConfig:
    """The PEFT config in a file's header; SimpleTuner may leave out the component before each key."""
    source = "the file's header"
    try:
        header = json.loads(text)
        raw = {k.removeprefix(_COMPONENT): v for k, v in header.items() if k.startswith(_COMPONENT)}
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f"{where}: {METADATA} in {source} is not JSON ({error}); save the file again"
        ) from error
    if not raw and "r" not in header:
        raise ValueError(
            f"{where}: {METADATA} in {source} has no settings of the transformer (keys that begin with "
            f"{_COMPONENT!r}), so the scale is unknown; its first key is {min(header, default='none')}"
        )
    return _plain_lora({"peft_type": "LORA", **(raw or header)}, f"{where}: ", source)
