"""Modules that have moved: a config saved before names classes by their old places.

What is compared over versions by a digest (as the conditions of a score in a card are) has first names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_ROOMS = {
    "diffopd.report.run": ("at_end", "gradient_variance"),
    "diffopd.reward.drawn": ("composition", "contrast", "palette_harmony", "spectrum"),
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
} | {
    "diffopd.model.fresh": "diffopd.model.untrained",
    "diffopd.optimizer": "diffopd.optimizer.muon",
    "diffopd.reward.balance": "diffopd.reward.drawn.visual_balance",
    "diffopd.reward.drawn.balance": "diffopd.reward.drawn.visual_balance",
}
"""Module as configs saved before name it, the oldest name first -> where it is now."""
RENAMED = {
    "diffopd.model.fresh.fresh_pipeline": "diffopd.model.untrained.new_pipeline",
    "diffopd.model.fresh.load_pipeline": "diffopd.model.untrained.pipeline_to_train",
}
"""Class or function as configs saved before name it -> what it is called now, if its own name is another."""
_FIRST = {new: old for old, new in reversed(MOVED.items())}
"""Where a module is now -> where it was first."""
_FIRST_NAMES = {new: old for old, new in RENAMED.items()}


def current_name(target: str) -> str:
    """What a ``_target_`` is called now.

    Examples:
        >>> current_name("diffopd.reward.ocr.OcrReward")
        'diffopd.reward.text.ocr.OcrReward'
        >>> current_name("my_reward.Redness")
        'my_reward.Redness'
    """
    return RENAMED.get(target) or _moved(target, MOVED)


def first_name(target: str) -> str:
    """What a ``_target_`` was called in the version that brought it.

    Examples:
        >>> first_name("diffopd.reward.text.ocr.OcrReward")
        'diffopd.reward.ocr.OcrReward'
    """
    return _FIRST_NAMES.get(target) or _moved(target, _FIRST)


def with_current_names(node: Any) -> Any:
    """A config of plain values, nested or flat, with every ``_target_`` as it is called now."""
    return _with_names(node, current_name)


def with_first_names(node: Any) -> Any:
    """A config of plain values, nested or flat, with every ``_target_`` as it was called first."""
    return _with_names(node, first_name)


def _moved(target: str, moved: Mapping[str, str]) -> str:
    module, _, name = target.rpartition(".")
    return f"{moved[module]}.{name}" if module in moved else target


def _with_names(node: Any, name: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {
            key: name(value)
            if isinstance(value, str) and str(key).rpartition(".")[2] == "_target_"
            else _with_names(value, name)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_with_names(value, name) for value in node]
    return node
