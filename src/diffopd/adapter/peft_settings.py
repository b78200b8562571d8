"""The settings of a saved LoRA in PEFT's words: what decides its function, apart from what only trained it.

PEFT applies all of a config when it adds an adapter: dropout then acts in every forward, and some
initializations subtract their start from the base weights, which all adapters of a run share. A file that is
read back needs neither, so only the settings that say where the adapter lies and how strong it is are kept.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig

log = logging.getLogger(__name__)

_SHAPE = (
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
"""What decides which layers an adapter has and what it adds to them."""
_ORIGIN = ("task_type", "base_model_name_or_path", "revision")
"""Where it came from; carried on as it is."""
_TRAINING = (
    "peft_type",
    "peft_version",
    "auto_mapping",
    "inference_mode",
    "lora_dropout",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",  # another backward through the same forward
    "fan_in_fan_out",  # of Conv1D layers; PEFT ignores it at linear ones
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
)
"""What was of use in its training and changes nothing of its function on an unchanged base."""
_KEEP_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Initializations that leave the base weights alone: its trained factors are then all there is to an adapter.

The others of PEFT (pissa, pissa_niter_<n>, olora, corda, loftq, lora_ga) write into the base.
"""
STRENGTH_BOUND = 1e6
"""Released LoRAs have strengths from 0.01 to some 10; beyond a million either way a number is damaged."""


def plain_settings(raw: Mapping[str, Any], where: str, source: str) -> dict[str, Any]:
    """The settings of a saved LoRA that decide its function, for :class:`peft.LoraConfig`.

    Dropout and initialization are left at PEFT's defaults, which are 0 and one that keeps the base.

    Args:
        raw: An ``adapter_config.json``, or the same from a file's header.
        where: How messages begin.
        source: What holds ``raw``, for messages.

    Raises:
        ValueError: If a setting is missing or makes no sense, or the adapter is more than a plain LoRA on the
            base weights as they are.
    """
    _check_base_kept(raw, where, source)
    check_numbers(raw, where, source)
    _check_layers(raw, where, source)
    known = LoraConfig.__dataclass_fields__
    for key in sorted(set(raw) - {*_SHAPE, *_ORIGIN, *_TRAINING, "bias"}):
        if raw[key] and key in known and raw[key] != known[key].default:
            raise ValueError(
                f"{where}{key}={raw[key]!r} in {source} is not supported; only plain LoRA is read"
            )
        if raw[key] and key not in known:
            log.warning(
                "%s%s=%r in %s is a setting that the installed PEFT does not know; it has no effect",
                where,
                key,
                raw[key],
                source,
            )
    return {key: raw[key] for key in (*_SHAPE, *_ORIGIN) if raw.get(key) is not None}


def check_numbers(raw: Mapping[str, Any], where: str, source: str) -> None:
    """Check rank and alpha; neither has a default that could be meant.

    Raises:
        ValueError: If one is missing, no number or out of range.
    """
    rank, alpha, rslora = raw.get("r"), raw.get("lora_alpha"), raw.get("use_rslora", False)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{where}{source} has r={rank!r}; the rank must be a whole number of at least 1")
    if alpha is None:
        state = "no lora_alpha" if "lora_alpha" not in raw else "lora_alpha=null"
        raise ValueError(
            f"{where}{source} has {state}, so the adapter's scale (lora_alpha / r) is unknown; add the value "
            "it was trained with"
        )
    if rslora not in (True, False, None):
        raise ValueError(f"{where}{source} has use_rslora={rslora!r}; it must be true or false")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise ValueError(f"{where}{source} has lora_alpha={alpha!r}; a number is needed, without quotes")
    divisor = math.sqrt(rank) if rslora else rank
    if not divisor / STRENGTH_BOUND <= alpha <= divisor * STRENGTH_BOUND:
        raise ValueError(
            f"{where}{source} has lora_alpha={alpha} at rank {rank}; it must be above 0, and the scale "
            f"(lora_alpha / r) between {1 / STRENGTH_BOUND:g} and {STRENGTH_BOUND:g}"
        )


def _check_base_kept(raw: Mapping[str, Any], where: str, source: str) -> None:
    start = raw.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) in _KEEP_BASE:
        return
    raise ValueError(
        f"{where}{source} has init_lora_weights={start!r}: such an adapter needs base weights that its "
        "initialization has changed, but here all adapters share the unchanged base. Convert it to a plain "
        "LoRA where it was trained: PEFT's save_pretrained(..., "
        "path_initial_model_for_weight_conversion=<the adapter as it was before training>)"
    )


def _check_layers(raw: Mapping[str, Any], where: str, source: str) -> None:
    """Names of layers are a list of texts or one regular expression."""
    for key in ("target_modules", "exclude_modules"):
        names = raw.get(key)
        if isinstance(names, str):
            try:
                re.compile(names)
            except re.error as error:
                raise ValueError(
                    f"{where}{source} has {key}={names!r}, which is not a regular expression: {error}"
                ) from error
        elif names is not None and not (
            isinstance(names, list | tuple | set) and all(isinstance(name, str) for name in names)
        ):
            raise ValueError(
                f"{where}{source} has {key}={names!r}; a list of layer names or one regular expression is "
                "needed"
            )
    numbers, blocks = raw.get("layers_to_transform"), raw.get("layers_pattern")
    if numbers is not None and not all(type(n) is int for n in _listed(numbers)):
        raise ValueError(
            f"{where}{source} has layers_to_transform={numbers!r}; a list of the numbers of blocks is needed"
        )
    if blocks is not None and not all(isinstance(name, str) for name in _listed(blocks)):
        raise ValueError(
            f"{where}{source} has layers_pattern={blocks!r}; a name of blocks, or a list of them, is needed"
        )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]
