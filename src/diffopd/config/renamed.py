"""Modules that have moved: a config saved before names classes by their old places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROOMS = {
    "diffopd.report.run": ("at_end", "gradient_variance"),
    "diffopd.reward.drawn": ("balance", "composition", "contrast", "palette_harmony", "spectrum"),
    "diffopd.reward.geneval": ("clip_colours", "photo_detector"),
    "diffopd.reward.learned": (
        "clipscore",
        "hpsv2",
        "imagereward",
        "laion_aesthetic",
        "pickscore",
        "unifiedreward",
    ),
    "diffopd.reward.server": ("remote",),
    "diffopd.reward.text": ("ocr", "rapid_text"),
}
"""Package of 0.2.0 -> the modules in it that 0.1.0 had one level higher."""
MOVED = {
    f"{room.rpartition('.')[0]}.{name}": f"{room}.{name}" for room, names in _ROOMS.items() for name in names
} | {"diffopd.optimizer": "diffopd.optimizer.muon"}
"""Module as configs of 0.1.0 name it -> where it is now."""
_FIRST = {now: first for first, now in MOVED.items()}


def current_name(target: str) -> str:
    """What a ``_target_`` is called now.

    Examples:
        >>> current_name("diffopd.reward.ocr.OcrReward")
        'diffopd.reward.text.ocr.OcrReward'
        >>> current_name("my_reward.Redness")
        'my_reward.Redness'
    """
    module, _, name = target.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else target


def first_name(target: str) -> str:
    """What a ``_target_`` was called in 0.1.0: digests go by it, so that those made then still fit.

    Examples:
        >>> first_name("diffopd.reward.text.ocr.OcrReward")
        'diffopd.reward.ocr.OcrReward'
    """
    module, _, name = target.rpartition(".")
    return f"{_FIRST[module]}.{name}" if module in _FIRST else target


def with_current_names(node: Any) -> Any:
    """A config of plain values, nested or flat, with every ``_target_`` as it is called now."""
    if isinstance(node, Mapping):
        return {
            key: current_name(value)
            if isinstance(value, str) and str(key).rpartition(".")[2] == "_target_"
            else with_current_names(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [with_current_names(value) for value in node]
    return node
