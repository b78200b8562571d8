"""What a LoRA file states before its values are read: the type of its numbers, and its alphas."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from functools import lru_cache

from diffopd.adapter.layout import METADATA, PREFIX
from diffopd.adapter.location import WEIGHTS, Place
from diffopd.adapter.safe_file import read_header
from diffopd.files.names import ADAPTER_CONFIG

log = logging.getLogger(__name__)

_REAL = ("F32", "F16", "BF16", "F64")
_WHOLE = tuple(f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64))
_ALPHA, _FACTOR = ".alpha", ".lora"


def check_stated(place: Place) -> None:
    """Check that a LoRA's numbers are real ones and that its scale is not a guess.

    A file of diffusers' or ComfyUI's keys without alpha has scale 1 by their convention, which is logged.
    PEFT's keys have no such convention: their alpha is in the config that lay beside them.

    Args:
        place: A ``peft`` folder or a ``lora`` file.

    Raises:
        ValueError: If a tensor has another kind of numbers, or PEFT's weights come without their config.
    """
    header = read_header(place.weights[0], place.where)
    stems = _stems(header.dtypes)
    for key, dtype in header.dtypes.items():
        is_alpha = key.endswith(_ALPHA)
        if dtype not in (*_REAL, *_WHOLE) if is_alpha else dtype not in _REAL:
            raise ValueError(
                f"{place.where}: {key} holds numbers of type {dtype}; a LoRA's must be {', '.join(_REAL)}. "
                "Take the file it was quantized or converted from"
            )
        if key.removesuffix(_ALPHA) in stems and is_alpha and math.prod(header.shapes[key]) != 1:
            raise ValueError(f"{place.where}: {key} has shape {header.shapes[key]}; an alpha is one number")
    if place.kind == "peft" or METADATA in header.strings:
        return
    unstated = _unstated(header.dtypes)
    if peft := [stem for stem in unstated if PREFIX in stem]:
        raise ValueError(
            f"{place.where} holds weights in PEFT's keys (first: {peft[0]}) without their {ADAPTER_CONFIG}, "
            "so their scale (lora_alpha / r) is unknown; give PEFT's whole folder, which holds the weights "
            f"as {WEIGHTS} with their {ADAPTER_CONFIG} beside them"
        )
    if unstated:
        log_once(
            f"note: {place.where} states no alpha for {len(unstated)} of its {len(stems)} layers (first: "
            f"{unstated[0]}); their scale is taken as 1, as in diffusers and ComfyUI"
        )


@lru_cache(maxsize=256)
def log_once(message: str, level: int = logging.WARNING) -> None:
    """Log a note the first time only: a file is looked at in the checks and again when it loads."""
    log.log(level, "%s", message)


def _stems(keys: Iterable[str]) -> list[str]:
    """What the keys of each layer begin with."""
    return sorted({key[: key.rfind(_FACTOR)] for key in keys if key.rfind(_FACTOR) > 0})


def _unstated(keys: Iterable[str]) -> list[str]:
    """The layers that have factors and no alpha."""
    keys = list(keys)
    alphas = {key.removesuffix(_ALPHA) for key in keys if key.endswith(_ALPHA)}
    return [stem for stem in _stems(keys) if stem not in alphas]
