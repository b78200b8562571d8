"""Does a student start as its own teacher? Then its velocities are the targets, and nothing is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffopd.adapter import find_card
from diffopd.doctor.cost import round_kind
from diffopd.doctor.finding import Finding, Level
from diffopd.files.paths import resolve_path
from diffopd.teacher import TeacherCard


def own_teacher_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """A warning where the loss of a distillation is 0 from the first round on."""
    start = (values.get("adapter") or {}).get("start")
    anchored = (values.get("regulariser") or {}).get("weight")
    if start is None or anchored or round_kind(values) != "distillation":
        return
    teachers, scale = (values["teacher"] or {}).get("teachers"), values["sampler"]["guidance_scale"]
    if not teachers:  # the model itself teaches, and is told more
        return
    same = (
        _place(entry["path"]) == _place(start) and _scale(f"teacher.teachers.{name}.path", entry) == scale
        for name, entry in teachers.items()
    )
    if all(same):
        yield Finding(
            Level.WARNING,
            "teacher",
            f"adapter.start={start} is the only teacher, used at the student's own guidance {scale:g}: the "
            "student starts as its own target, so its loss and gradient are 0; start from another adapter, "
            "or use the teacher at another guidance with teacher.teachers.<name>.guidance_scale=...",
        )


def _place(path: str) -> Path:
    return Path(resolve_path(path)).absolute()


def _scale(setting: str, entry: Mapping[str, Any]) -> float | None:
    """The guidance a teacher is asked at: the config's, or else its card's; None if neither says."""
    if entry["guidance_scale"] is not None:
        return entry["guidance_scale"]
    card = find_card(entry["path"])
    return None if card is None else TeacherCard.load(card.parent, setting=setting).guidance_scale
