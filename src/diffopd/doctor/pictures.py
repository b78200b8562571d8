"""Do a training's rewards and prompts suit the pictures that its model draws?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffopd.check.setting import phase_takes
from diffopd.doctor.finding import Finding, Level
from diffopd.types.size import height_and_width

LARGEST_DRAWING = 64
"""Pixels up to which a picture may be one of the drawn world."""
_OTHER_SCORERS = "judges drawings; choose pickscore, hpsv2, clipscore or imagereward"
DRAWN_REWARDS = {
    "diffopd.world.detect.ShapeDetector": "reads shapes of drawings; for photographs choose reward=geneval",
    "diffopd.reward.drawn.contrast.ContrastReward": _OTHER_SCORERS,
    "diffopd.reward.drawn.visual_balance.BalanceReward": _OTHER_SCORERS,
    "diffopd.reward.drawn.alignment.AlignmentReward": _OTHER_SCORERS,
    "diffopd.reward.drawn.palette_harmony.PaletteHarmonyReward": _OTHER_SCORERS,
}
DRAWN_PROMPTS = "package://assets/prompts/"


def picture_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare what scores pictures, and the prompts, with the model's picture size.

    Args:
        values: The composed config as plain values, checked.
    """
    if not phase_takes(values, "model"):
        return
    side = max(height_and_width(values["model"]["image_size"]))
    for path, node in _nodes(values.get("reward"), "reward"):
        yield from _reader_findings(path, node, side)
        yield from _drawn_findings(path, node, side)
    benchmark = values.get("benchmark") or {}
    for path, node in _nodes(benchmark, "benchmark"):
        yield from _reader_findings(path, node, side)
    if side <= LARGEST_DRAWING:
        return
    for group, tasks in (("data", values["data"].get("tasks")), ("benchmark", benchmark.get("tasks"))):
        drawn = [name for name, task in (tasks or {}).items() if _is_drawn(task)]
        if drawn:
            advice = "set their path" if group == "data" else "choose another, or ~report ~benchmark"
            yield Finding(
                Level.WARNING,
                "pictures",
                f"{group}.tasks ({', '.join(drawn)}) has prompts of the embedded model's drawings, while "
                f"its pictures have {side} pixels; {advice}",
            )


def _reader_findings(path: str, node: Mapping[str, Any], side: int) -> Iterator[Finding]:
    """Text readers: small signs fill the picture and need enlarging, large pictures have lines to find."""
    if not str(node.get("_target_", "")).endswith(".RapidTextRecognizer"):
        return
    finds, upscale = node["detect"], node["upscale"]
    if side > LARGEST_DRAWING and not finds:
        yield Finding(
            Level.WARNING,
            "pictures",
            f"{path}.detect=false reads a whole picture of {side} pixels as one line of text, which fails; "
            f"set {path}.detect=true {path}.upscale=1",
        )
    elif side <= LARGEST_DRAWING and (finds or side * upscale < 64):
        yield Finding(
            Level.WARNING,
            "pictures",
            f"{path}.detect={str(finds).lower()} and upscale={upscale} can read little text in pictures of "
            f"{side} pixels; set {path}.detect=false {path}.upscale=2",
        )


def _drawn_findings(path: str, node: Mapping[str, Any], side: int) -> Iterator[Finding]:
    what = DRAWN_REWARDS.get(str(node.get("_target_", "")))
    if what is not None and side > LARGEST_DRAWING:
        yield Finding(Level.WARNING, "pictures", f"{path} {what}; its pictures have {side} pixels")


def _is_drawn(task: Any) -> bool:
    return isinstance(task, Mapping) and str(task.get("path", "")).startswith(DRAWN_PROMPTS)


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings within a config, with their paths."""
    if not isinstance(node, Mapping):
        return
    yield path, node
    for key, value in node.items():
        yield from _nodes(value, f"{path}.{key}")
