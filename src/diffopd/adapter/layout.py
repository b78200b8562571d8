"""LoRA files of every layout as one: factors by the layer's name in diffusers, one rank, one strength.

| Layout | Keys of a layer |
|---|---|
| PEFT folder | ``base_model.model.<layer>.lora_A.weight``, ``.lora_B.weight``; rank and alpha in its JSON |
| diffusers | ``transformer.<layer>.lora_A.weight``, ``.lora_B.weight``; rank, alpha in its header if any |
| ComfyUI | the same, or ``.lora_down.weight`` and ``.lora_up.weight``, and ``<layer>.alpha`` |
| OneTrainer | ``lora_transformer_<layer, underscored>.lora_down.weight``, ``.lora_up.weight``, ``.alpha`` |
| others | what diffusers converts for the family: kohya's ``lora_unet_...``, ``diffusion_model....`` |
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import diffusers.loaders
import torch
from peft import LoraConfig
from torch import Tensor

from diffopd.adapter.merge import A, B
from diffopd.adapter.peft_settings import plain_settings
from diffopd.adapter.place import CONFIG, Place
from diffopd.adapter.safe_file import read_tensors

PREFIX = "base_model.model."
"""What PEFT puts before every key."""
METADATA = "lora_adapter_metadata"
"""Entry of the header in which diffusers keeps the PEFT config, each key after the component's name."""

_COMPONENT = "transformer."
_UNDERSCORED = "lora_transformer_"
_ENDINGS = {
    A: (A, ".lora_down.weight", ".lora.down.weight"),
    B: (B, ".lora_up.weight", ".lora.up.weight"),
    ".alpha": (".alpha",),
}
_TEXT_ENCODER = ("text_encoder", "lora_te")
_OTHER_KINDS = ("lokr_", "loha_", "hada_", "dora_scale", "lora_magnitude_vector", "lora_mid")
_UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")
_CONVERTERS = {
    "SD3Transformer2DModel": "SD3LoraLoaderMixin",
    "FluxTransformer2DModel": "FluxLoraLoaderMixin",
    "Flux2Transformer2DModel": "Flux2LoraLoaderMixin",
    "ZImageTransformer2DModel": "ZImageLoraLoaderMixin",
    "QwenImageTransformer2DModel": "QwenImageLoraLoaderMixin",
}
"""Transformer -> what of diffusers knows the file layouts of its family."""


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


def read_lora(place: Place, family: str, layers: Collection[str]) -> SavedLoRA:
    """Read a LoRA; that its shapes fit the model is not looked at yet.

    Args:
        place: A ``peft`` folder or ``lora`` file.
        family: Class of the model's transformer, which decides how keys are converted.
        layers: Names of the transformer's linear layers.

    Raises:
        ValueError: If the file cannot be read, or is no plain LoRA of a transformer.
    """
    tensors, header = read_tensors(place.weights[0], place.where)
    _refuse_other_kinds(tensors, place.where)
    if place.kind == "peft":
        config = read_peft_config(place)
        return SavedLoRA(config, {k.removeprefix(PREFIX): v for k, v in tensors.items()}, CONFIG)
    if METADATA in header:
        return _with_header(tensors, header[METADATA], place.where)
    found = _direct(tensors, layers)
    if found is None:
        converted = _converted(tensors, layers, family, place.where)
        found = _direct(converted, layers)
        if found is None:
            raise _other_architecture(converted, layers, family, place.where)
    return _of_one_shape(*found, place)


def read_peft_config(place: Place) -> LoraConfig:
    """The ``adapter_config.json`` of a PEFT folder.

    Raises:
        ValueError: If it is not that of a plain LoRA.
    """
    try:
        raw = json.loads((place.path / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place.where}: {CONFIG} is not JSON ({error}); fetch or copy it again") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{place.where}: {CONFIG} holds a {type(raw).__name__} instead of settings")
    return _plain_lora(raw, f"{place.where}: ", CONFIG)


def _plain_lora(raw: Mapping[str, Any], where: str, source: str) -> LoraConfig:
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"{where}peft_type is {raw.get('peft_type')}; only LORA is read")
    used = [key for key in _UNSUPPORTED if raw.get(key)]
    if used or raw.get("bias", "none") != "none":
        raise ValueError(f"{where}{used or ['bias']} in {source} is not supported; only plain LoRA is read")
    if not isinstance(raw.get("r"), int) or raw["r"] < 1 or not raw.get("target_modules"):
        raise ValueError(
            f"{where}{source} has r={raw.get('r')} and target_modules={raw.get('target_modules')}; a rank of "
            "at least 1 and the names of the adapted layers are needed"
        )
    return LoraConfig(**plain_settings(raw, where, source))


def _with_header(tensors: Mapping[str, Tensor], text: str, where: str) -> SavedLoRA:
    """A file whose header holds the PEFT config, as diffusers writes it."""
    source = "the file's header"
    try:
        header = json.loads(text)
        raw = {k.removeprefix(_COMPONENT): v for k, v in header.items() if k.startswith(_COMPONENT)}
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f"{where}: {METADATA} in {source} is not JSON ({error}); save the file again"
        ) from error
    config = _plain_lora({"peft_type": "LORA", **raw}, f"{where}: ", source)
    return SavedLoRA(config, {k.removeprefix(_COMPONENT): v for k, v in tensors.items()}, source)


def _refuse_other_kinds(tensors: Mapping[str, Tensor], where: str) -> None:
    for key in tensors:
        if key.startswith(_TEXT_ENCODER):
            raise ValueError(
                f"{where} also changes a text encoder ({key}); prompts are encoded once for all adapters of "
                "a run, so only LoRAs of the transformer alone are read"
            )
        if any(kind in key for kind in _OTHER_KINDS):
            raise ValueError(
                f"{where} is no plain LoRA ({key}); LoKr, LoHa, DoRA and convolutions are not read"
            )


def _direct(
    tensors: Mapping[str, Tensor], layers: Collection[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]] | None:
    """``layer -> its two factors`` and ``layer -> alpha``, or None if a key names no layer of the model."""
    by_underscores = {layer.replace(".", "_"): layer for layer in layers}
    factors: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    alphas: dict[str, float] = {}
    for key, value in tensors.items():
        stem, part = _split(key)
        if stem.startswith(_UNDERSCORED):
            layer = by_underscores.get(stem.removeprefix(_UNDERSCORED), "")
        else:
            layer = stem.removeprefix(PREFIX).removeprefix(_COMPONENT)
        if layer not in layers or not part:
            return None
        if part == ".alpha":
            alphas[layer] = float(value.float().flatten()[0])
        else:
            factors[layer][part] = value
    return dict(factors), alphas


def _split(key: str) -> tuple[str, str]:
    """The layer of a key, and which of ``.lora_A.weight``, ``.lora_B.weight`` and ``.alpha`` it is."""
    for part, endings in _ENDINGS.items():
        for ending in endings:
            if key.endswith(ending):
                return key.removesuffix(ending), part
    return key, ""


def _converted(
    tensors: Mapping[str, Tensor], layers: Collection[str], family: str, where: str
) -> dict[str, Tensor]:
    """The same by diffusers' own converter of the family, where it has one."""
    loader = getattr(diffusers.loaders, _CONVERTERS.get(family, ""), None)
    if loader is None:
        raise _other_architecture(tensors, layers, family, where)
    convert = cast(Callable[..., Any], loader.lora_state_dict)
    try:
        if family == "FluxTransformer2DModel":  # the one that hands alphas over beside the factors
            found, alphas = convert(dict(tensors), return_alphas=True)
            return {**found, **{key: torch.as_tensor(alpha) for key, alpha in (alphas or {}).items()}}
        return convert(dict(tensors))
    except Exception as error:  # the converters raise what their parsing happens to meet
        raise ValueError(
            f"{where}: diffusers does not convert these keys for {family} (first: {min(tensors)}): "
            f"{type(error).__name__}: {error}"
        ) from error


def _other_architecture(
    tensors: Mapping[str, Tensor], layers: Collection[str], family: str, where: str
) -> ValueError:
    return ValueError(
        f"{where}: its keys (first: {min(tensors, default='none')}) are not all of layers of this model's "
        f"{family} (last: {max(layers, default='none')}); it was made for another architecture, or has a "
        "layout that diffusers does not convert for this one. Layouts that are read: PEFT, diffusers "
        "(transformer.<layer>.lora_A.weight), ComfyUI's with diffusers' layer names"
    )


def _of_one_shape(
    factors: Mapping[str, Mapping[str, Tensor]], alphas: Mapping[str, float], place: Place
) -> SavedLoRA:
    """One rank and strength for all layers, with every product ``strength * B A`` kept.

    A smaller rank is filled up with zeros; another strength is moved into ``B``. A layer without alpha has
    strength 1, as diffusers and ComfyUI read it.
    """
    ranks, strengths = {}, {}
    for layer, parts in factors.items():
        if set(parts) != {A, B} or parts[A].ndim != 2 or parts[B].ndim != 2:
            shapes = {part: tuple(value.shape) for part, value in parts.items()}
            raise ValueError(
                f"{place.where}: layer {layer} has {shapes}; it needs the two matrices {A} and {B}"
            )
        down, up = parts[A].shape[0], parts[B].shape[1]
        if down != up:
            raise ValueError(f"{place.where}: layer {layer} has rank {down} in {A} and {up} in {B}")
        if not 0 < alphas.get(layer, down) < math.inf:
            raise ValueError(f"{place.where}: layer {layer} has alpha {alphas[layer]}; above 0 is needed")
        ranks[layer], strengths[layer] = down, alphas.get(layer, down) / down
    if not factors:
        raise ValueError(f"{place.where} holds no factors of a LoRA")
    rank, strength = max(ranks.values()), Counter(strengths.values()).most_common(1)[0][0]
    values: dict[str, Tensor] = {}
    for layer, parts in factors.items():
        missing = rank - ranks[layer]
        up = parts[B] if strengths[layer] == strength else parts[B].float() * (strengths[layer] / strength)
        values[layer + A] = torch.nn.functional.pad(parts[A], (0, 0, 0, missing))
        values[layer + B] = torch.nn.functional.pad(up, (0, missing))
    config = LoraConfig(
        r=rank,
        lora_alpha=cast(int, strength * rank),  # PEFT only divides by the rank
        target_modules=sorted(factors),
    )
    return SavedLoRA(config, values, place.path.name, padded=min(ranks.values()) != rank)
