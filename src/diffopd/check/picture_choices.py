"""Do the settings go together that say what is learned from pictures, and how?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffopd.check.chosen import lacks, target_of
from diffopd.check.setting import phase_takes
from diffopd.check.source import constant, read_target


def picture_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Settings of pictures that do not go together, as one sentence each."""
    yield from _pairs(values)
    yield from _states(values)
    yield from _class_pictures(values)
    yield from _assistant(values)
    yield from _kept(values)


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    """Preferred pictures are the data's, and so are the rejected ones if they are not drawn."""
    if constant(target_of(values, "phase"), "takes_pairs") is not True:
        return
    rejected, key = values["phase"].get("rejected"), (values.get("data") or {}).get("rejected_key")
    if lacks(values, "data", "has_targets"):
        yield "phase=preference prefers pictures of the data, and the data has none; choose data=pairs"
    elif rejected == "pictures" and key is None:
        yield (
            "phase.rejected=pictures needs a second picture in each line, and data.rejected_key=null names "
            "none; set data.rejected_key, or phase.rejected=student to prefer the pictures to samples"
        )
    elif rejected != "pictures" and key is not None:
        yield (
            f"data.rejected_key={key} names pictures, and phase.rejected={rejected} draws others; set "
            "phase.rejected=pictures, or data.rejected_key=null"
        )


def _states(values: Mapping[str, Any]) -> Iterator[str]:
    """States that are noised pictures need pictures."""
    if constant(target_of(values, "phase"), "takes_states") is not True:
        return
    if values["phase"].get("states_from") == "pictures" and lacks(values, "data", "has_targets"):
        yield (
            "phase.states_from=pictures takes its states from pictures, and the data has none; choose "
            "data=pairs, or phase.states_from=rollout"
        )


def _class_pictures(values: Mapping[str, Any]) -> Iterator[str]:
    """A class is remembered beside pictures."""
    phase = values["phase"]
    if isinstance(phase.get("class_prompt"), str) and phase.get("examples") != "pictures":
        yield (
            f"phase.class_prompt={phase['class_prompt']} has class pictures learned beside pictures, and "
            f"phase.examples={phase.get('examples')} has none; set phase.examples=pictures, or "
            "phase.class_prompt=null"
        )


def _assistant(values: Mapping[str, Any]) -> Iterator[str]:
    """An assistant lies on the backbone that the student's adapter lies on."""
    path, adapter = values["phase"].get("assistant"), read_target(target_of(values, "adapter"))
    if isinstance(path, str) and adapter is not None and "rank" not in adapter.parameters:
        yield (
            f"phase.assistant={path} lies on the frozen backbone beside the student's adapter, and "
            "adapter=full trains a backbone of its own; choose adapter=lora, or phase.assistant=null"
        )


def _kept(values: Mapping[str, Any]) -> Iterator[str]:
    """What is to be kept is learned from a teacher that is the model itself, along rollouts."""
    keep = (values.get("data") or {}).get("keep")
    path = keep.get("path") if isinstance(keep, Mapping) else None
    if path is None:
        return
    teacher, states = values.get("teacher"), values["phase"].get("states_from")
    if not phase_takes(values, "teacher") or not isinstance(teacher, Mapping) or "context" not in teacher:
        yield (
            f"data.keep.path={path} has prompts kept by a model that is its own teacher, and there is none; "
            "choose +experiment=dopsd, or data.keep.path=null"
        )
    elif states != "rollout":
        yield (
            f"data.keep.path={path} has prompts without pictures, and phase.states_from={states} takes its "
            "states from pictures; set phase.states_from=rollout, or data.keep.path=null"
        )
