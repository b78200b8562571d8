"""Gain of one evaluation over another, image by image: ``python margin.py model.json base.json``."""

from __future__ import annotations

import sys
from pathlib import Path

from diffopd.evaluation import EvaluationResult


def main(model: Path, base: Path) -> None:
    """Print the gain on every task both were scored on, with its 95 % interval."""
    ours, theirs = EvaluationResult.load(model), EvaluationResult.load(base)
    for task in ours.tasks:
        if task in theirs.tasks:
            gain = ours.gain_over(theirs, task)
            known = gain.low is not None and gain.high is not None
            interval = f"{gain.low:.3f} to {gain.high:.3f}" if known else "not known"
            before, after = theirs.tasks[task].value, ours.tasks[task].value
            print(
                f"{ours.benchmark} {task}: {before.mean:.3f} (guidance {theirs.guidance_scale:g}) -> "
                f"{after.mean:.3f} (guidance {ours.guidance_scale:g}), gain {gain.mean:.3f}, 95 % "
                f"{interval}, {after.n} images"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
