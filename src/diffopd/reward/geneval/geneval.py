"""GenEval's rule: are the objects a prompt asks for among the detections, and how nearly?

Everything here is a pure function of detections and metadata; where the detections come from does not matter.

References:
    Ghosh et al., "GenEval", 2023, arXiv:2310.11513 (the official accuracy).
    Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470 (the dense training reward, here ``dense_released``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffopd.types import Detection

MIN_CONFIDENCE = 0.3
MIN_CONFIDENCE_COUNTING = 0.9
MAX_PER_CLASS = 16
POSITION_SLACK = 0.1
POSITION_DIRECTION = 0.5
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class GenevalScore:
    """How well one image's detections meet its prompt.

    Attributes:
        official: GenEval's verdict: at least the asked counts, colors and relations, and nothing excluded.
        strict: As training rewards have it: exactly the asked counts, colors and relations.
        dense: Mean of one term per count, color and relation, each in [0, 1].
        dense_released: The same as the released code computes it: surplus objects may take the count term
            below 0, and a failed relation appends 1 after its 0.
    """

    official: bool
    strict: bool
    dense: float
    dense_released: float


def score_detections(detections: Sequence[Detection], metadata: Mapping[str, Any]) -> GenevalScore:
    """Score one image.

    Args:
        detections: Everything the detector saw, in any order.
        metadata: ``tag``, ``include`` and optionally ``exclude`` clauses in GenEval's format.

    Returns:
        The official verdict, the strict one, and both dense rewards.

    Raises:
        ValueError: If the metadata has no ``include`` clause.

    Examples:
        >>> cat = Detection("cat", (0.0, 0.0, 9.0, 9.0), 0.95, "red")
        >>> score_detections([cat], {"tag": "counting", "include": [{"class": "cat", "count": 2}]}).dense
        0.5
    """
    clauses = metadata.get("include") or ()
    if not clauses:
        raise ValueError(
            "GenEval needs metadata with at least one 'include' clause, got "
            f"{dict(metadata)}; read the prompts from a GenEval JSONL file"
        )
    found = confident_objects(detections, metadata.get("tag", ""))
    dense, strict = _dense(found, clauses, released=False)
    dense_released, _ = _dense(found, clauses, released=True)
    official = _official(found, clauses, metadata.get("exclude") or ())
    return GenevalScore(official, strict, dense, dense_released)


def check_clauses(
    metadata: Mapping[str, Any],
    *,
    classes: Collection[str] | None = None,
    colours: Collection[str] | None = None,
) -> None:
    """Raise for metadata that :func:`score_detections` could not use, or that no image could meet.

    Args:
        metadata: ``include`` and ``exclude`` clauses in GenEval's format.
        classes: Names of the objects that the detector finds; None if it does not say.
        colours: Names of the colors it tells; None if it does not say.

    Raises:
        ValueError: If there is no ``include`` clause, a clause lacks what every clause has, or it asks for a
            class or a color that is never found.
    """
    include, exclude = metadata.get("include"), metadata.get("exclude") or []
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        raise ValueError(
            "a GenEval line needs 'include', a list of at least one clause {class, count}, and may have "
            f"'exclude', another; it has the keys {sorted(metadata)}"
        )
    for clause in (*include, *exclude):
        if not isinstance(clause, (dict, Mapping)) or "class" not in clause or "count" not in clause:
            raise ValueError(f"a GenEval clause needs 'class' and 'count', got {clause!r}")
        if type(clause["count"]) is not int or clause["count"] < 1:
            raise ValueError(
                f"'count' of a GenEval clause must be a whole number of at least 1, got {clause!r}"
            )
        _check_name("class", clause["class"], classes, clause)
        if "color" in clause:
            _check_name("color", clause["color"], colours, clause)
    for place, clause in enumerate(include):
        position = clause.get("position")
        if position is not None and not _is_position(position, place):
            raise ValueError(
                f"'position' of a GenEval clause must be [relation, an earlier clause], got {clause!r}"
            )


def _check_name(key: str, name: Any, known: Collection[str] | None, clause: Mapping[str, Any]) -> None:
    if not isinstance(name, str):
        raise ValueError(f"'{key}' of a GenEval clause must be a name, got {clause!r}")
    if known is not None and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        instead = f"did you mean '{near[0]}'?" if near else f"it knows {', '.join(sorted(known))}"
        raise ValueError(
            f"no image can have {key} '{name}': the reward's detector has no such name; {instead}"
        )


def _is_position(position: Any, place: int) -> bool:
    if not isinstance(position, list) or len(position) != 2:
        return False
    relation, target = position
    return relation in RELATIONS and isinstance(target, int) and 0 <= target < place


def confident_objects(detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """Detections by class, best first, that are confident enough for ``tag``, at most 16 each."""
    threshold = MIN_CONFIDENCE_COUNTING if tag == "counting" else MIN_CONFIDENCE
    found: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda d: -d.confidence):
        objects = found.setdefault(detection.name, [])
        if detection.confidence > threshold and len(objects) < MAX_PER_CLASS:
            objects.append(detection)
    return found


def relations(a: Detection, b: Detection) -> frozenset[str]:
    """Where ``a`` lies as seen from ``b``; empty when their boxes are too close to tell.

    The offset of centers is shrunk per axis by a tenth of both widths (heights), then measured against the
    length of the unshrunk offset: a component above one half names a relation, so two may hold at once.
    """
    offset, shrunk = [], []
    for low, high in ((0, 2), (1, 3)):
        distance = (a.box[low] + a.box[high] - b.box[low] - b.box[high]) / 2
        slack = POSITION_SLACK * (abs(a.box[high] - a.box[low]) + abs(b.box[high] - b.box[low]))
        offset.append(distance)
        shrunk.append(math.copysign(max(abs(distance) - slack, 0.0), distance))
    if max(map(abs, shrunk)) < 1e-3:
        return frozenset()
    length = math.hypot(*offset)
    right, down = (component / length for component in shrunk)
    names = (
        ("right of", right > POSITION_DIRECTION),
        ("left of", right < -POSITION_DIRECTION),
        ("below", down > POSITION_DIRECTION),
        ("above", down < -POSITION_DIRECTION),
    )
    return frozenset(name for name, holds in names if holds)


def _official(
    found: Mapping[str, list[Detection]],
    include: Sequence[Mapping[str, Any]],
    exclude: Sequence[Mapping[str, Any]],
) -> bool:
    matched: list[list[Detection] | None] = []
    for clause in include:
        objects = found.get(clause["class"], [])[: clause["count"]]
        holds = len(objects) == clause["count"]
        if holds and "color" in clause:
            holds = _num_coloured(objects, clause["color"]) == clause["count"]
        if holds and "position" in clause:
            holds = _relation_holds(objects, clause["position"], matched)
        matched.append(objects if holds else None)
    surplus = any(len(found.get(clause["class"], [])) >= clause["count"] for clause in exclude)
    return None not in matched and not surplus


def _dense(
    found: Mapping[str, list[Detection]], include: Sequence[Mapping[str, Any]], *, released: bool
) -> tuple[float, bool]:
    terms: list[float] = []
    matched: list[list[Detection] | None] = []
    for clause in include:
        objects, count = found.get(clause["class"], []), clause["count"]
        terms.append(_closeness(len(objects), count, released=released))
        holds = len(objects) == count
        if not holds and ("color" in clause or "position" in clause):
            terms.append(0.0)
        if holds and "color" in clause:
            num_coloured = _num_coloured(objects, clause["color"])
            terms.append(_closeness(num_coloured, count, released=released))
            holds = num_coloured == count
        if holds and "position" in clause:
            holds = _relation_holds(objects, clause["position"], matched)
            terms.append(float(holds))
            # The released code falls through to its success branch once the target clause was met.
            if released and not holds and matched[clause["position"][1]] is not None:
                terms.append(1.0)
        matched.append(objects if holds else None)
    return sum(terms) / len(terms), None not in matched


def _closeness(number: int, wanted: int, *, released: bool) -> float:
    closeness = 1 - abs(wanted - number) / wanted
    return closeness if released else max(closeness, 0.0)


def _num_coloured(objects: Sequence[Detection], colour: str) -> int:
    return sum(detection.colour == colour for detection in objects)


def _relation_holds(
    objects: Sequence[Detection], position: Sequence[Any], matched: Sequence[Sequence[Detection] | None]
) -> bool:
    relation, target = position
    targets = matched[target]
    return targets is not None and all(relation in relations(a, b) for a in objects for b in targets)
