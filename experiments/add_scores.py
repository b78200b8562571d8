"""Copy an evaluation's scores into a card: ``python experiments/add_scores.py results.json card.json``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from diffopd.evaluation import EvaluationResult
from diffopd.files import atomic_write_json


def add_scores(results: Path, card: Path) -> None:
    """Add (or replace) the evaluated tasks of one benchmark; other entries stay.

    A base model's card keeps scores by guidance; a teacher's has one guidance, which the scores must share.
    """
    result = EvaluationResult.load(results)
    content = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    scores = content.setdefault("scores", {})
    if result.adapter is None:
        scores = scores.setdefault(f"guidance {result.guidance_scale:g}", {})
    elif result.guidance_scale != content["guidance_scale"]:
        raise SystemExit(f"{results} was scored at another guidance than {card} states")
    tasks = scores.setdefault(result.benchmark, {})
    tasks.update({task: dataclasses.asdict(score) for task, score in result.scores.items()})
    atomic_write_json(card, content)


if __name__ == "__main__":
    add_scores(Path(sys.argv[1]), Path(sys.argv[2]))
