"""Verdicts on the benchmark scores of this page: ``python experiments/ablations/verdicts.py``.

From ``scores.csv``, each seed's scores as the page printed them; scores by prompt were not kept, so prompts
are taken as given. A page of ``python -m diffopd.report`` has the same test and counts prompts as drawn, too.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from pathlib import Path

import yaml

from diffopd.config.folder import config_folder
from diffopd.report.methods.difference import difference_of, holm

SCORES = Path(__file__).parent / "scores.csv"
TASKS = ("composition", "ocr", "aesthetic")
LEVEL = 0.05


def read_scores(path: Path = SCORES) -> dict[tuple[str, float], dict[int, dict[str, float]]]:
    """Method and guidance -> seed -> task -> score."""
    found: dict[tuple[str, float], dict[int, dict[str, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            seeds = found.setdefault((line["method"], float(line["guidance"])), {})
            seeds[int(line["seed"])] = {task: float(line[task]) for task in TASKS}
    return found


def mean_of_tasks(seeds: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """Seed -> mean of its tasks."""
    return {seed: statistics.fmean(scores[task] for task in TASKS) for seed, scores in seeds.items()}


def verdicts() -> list[list[str]]:
    """Figure, claim, guidance, verdict, difference, Holm's p and that of equivalence, as they are printed."""
    scores = read_scores()
    claims = yaml.safe_load((Path(config_folder()) / "claims" / "figures.yaml").read_text(encoding="utf-8"))
    tested = []
    for claim in claims.values():
        if claim["metric"] == "final_score":
            for scale in (1.0, 2.0):
                first, second = (mean_of_tasks(scores[claim[side], scale]) for side in ("method", "against"))
                found = difference_of(first, second, 1, resolution=1 / 64 / 3, margin=claim["margin"])
                assert found is not None
                assert found.p_equivalent is not None
                tested.append((claim, scale, found, found.p_equivalent))
    adjusted = holm([found.p for _, _, found, _ in tested])
    equivalent = holm([p for _, _, _, p in tested])
    lines = []
    for (claim, scale, found, _), p, p_equal in zip(tested, adjusted, equivalent, strict=True):
        if p < LEVEL:
            outcome = "holds" if found.mean > 0 else "does not hold here"
        elif p_equal < LEVEL:
            outcome = f"no difference larger than {claim['margin']:g}"
        else:
            outcome = "not decidable"
        interval = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        text = claim["text"].removesuffix(".")
        lines.append([claim["figure"], text, f"{scale:g}", outcome, interval, f"{p:.3f}", f"{p_equal:.3f}"])
    return lines


def main() -> None:
    """Print the table."""
    header = ["", "The paper", "guidance", "Here", "Difference", "p (Holm)", "p of equivalence (Holm)"]
    for line in [header, ["---", "---", "---:", "---", "---", "---:", "---:"], *verdicts()]:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
