"""Copy an evaluation's scores into a card: ``python experiments/add_scores.py results.json card.json``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from diffopd.evaluation import EvaluationResult
from diffopd.files.atomic import atomic_write_json
from diffopd.files.sealed import SEAL, write_sealed_json


def add_scores(results: Path, card: Path) -> None:
    """Add (or replace) the evaluated tasks of one benchmark and its held-out values; other entries stay.

    A base model's card keeps scores by guidance; a teacher's has one guidance, which the scores must share.
    """
    result = EvaluationResult.load(results)
    content = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    sealed = content.pop(SEAL, None) is not None  # as a run writes it
    if result.adapter is not None and result.guidance_scale != content["guidance_scale"]:
        raise SystemExit(f"{results} was scored at another guidance than {card} states")
    for part, found in {"scores": result.scores, "held_out": result.held_out_scores}.items():
        entries = content.setdefault(part, {})
        if result.adapter is None:
            entries = entries.setdefault(f"guidance {result.guidance_scale:g}", {})
        entries.setdefault(result.benchmark, {}).update(
            {name: dataclasses.asdict(value) for name, value in found.items()}
        )
    if sealed:
        write_sealed_json(card, content)
    else:
        atomic_write_json(card, content)


if __name__ == "__main__":
    add_scores(Path(sys.argv[1]), Path(sys.argv[2]))
