"""Seeds that each claim of a page needs: ``python experiments/seeds_needed.py experiments/ablations``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from diffopd.report.methods.claims import read_claims
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.measured import Measuring
from diffopd.report.methods.methods import group_runs
from diffopd.report.methods.pairing import SeedEffect
from diffopd.report.methods.seed_table import Way, needed_in, seed_table
from diffopd.report.methods.seeds_needed import POWER, ErrorParts
from diffopd.report.methods.verdict import Verdict
from diffopd.report.methods.verdicts import judge

CONF = Path(__file__).parents[1] / "conf"
MINI = 64
"""Prompts per task of ``mini``, each with one image."""
LARGE, LARGE_IMAGES = (108 + 120 + 120) / 3, 5
"""Prompts per task of ``mini_large``, and images of each."""
SCORED_EVERY, ROUNDS = 5, 220
WINDOW_BEFORE, WINDOW = 9, 45
"""Rewards in a running mean: of those that are logged; of a round each."""


def as_measured(metric: str, parts: ErrorParts) -> ErrorParts:
    """As in the runs at hand."""
    return parts


def larger(metric: str, parts: ErrorParts) -> ErrorParts:
    """Scores on ``mini_large``; rewards of every round, where the noise of a mean falls with its number."""
    if metric == "final_score":
        return parts.with_benchmark(prompts=LARGE / MINI, images=LARGE * LARGE_IMAGES / MINI)
    averaged = ROUNDS / (ROUNDS // SCORED_EVERY) if metric == "reward_area" else WINDOW / WINDOW_BEFORE
    return dataclasses.replace(parts, seeds=parts.seeds / averaged)


WAYS = (("as measured", as_measured), ("larger", larger))


def judged(data: Path) -> list[Verdict]:
    """Verdicts on the claims of ``conf/claims/figures.yaml`` from a page's kept runs."""
    settings = yaml.safe_load((CONF / "report.yaml").read_text(encoding="utf-8"))
    claims = read_claims(yaml.safe_load((CONF / "claims" / "figures.yaml").read_text(encoding="utf-8")))
    methods = group_runs(find_runs([str(data)]), {}, include_unfinished=False)
    measuring = Measuring(benchmark=settings["benchmark_name"], window=settings["running_mean"])
    return judge(claims, methods, measuring, test=settings["test"])


def page(verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    tested = [verdict for verdict in verdicts if verdict.parts is not None and verdict.margin]
    effects = {
        (f"scores at guidance {verdict.guidance:g}"): verdict.effect
        for verdict in tested
        if verdict.guidance is not None and verdict.effect is not None
    }
    pairs = "\n".join(_pairs(name, effect) for name, effect in effects.items())
    return f"""# Seeds that decide, written before the runs

Made by `python experiments/seeds_needed.py experiments/ablations` from `pilot/`, or from `data/` as long as
there is none: before runs that are to decide replace those in `data/`, these move there, so that the plan
stays what it was. A test compares page and runs.

Seeds of each method with which the chance of a verdict is {POWER:.0%}, for each claim of
`conf/claims/figures.yaml`. *Difference*: to find one as large as the margin. *Equivalence*: to find, by two
one-sided tests, that there is none as large as the margin, if there is none at all. *Seen*: to find the
difference that was measured. All at the first, hardest step of Holm's rule, for {len(tested)} tests.

{seed_table(verdicts, WAYS)}

- *Deviation of a run*: over seeds, pooled over all methods that are compared by a quantity. *Of that,
  images*: the share that comes from how the scores of single prompts vary between seeds. Where it is most,
  more images of each prompt help as more seeds do, and cost less.
- *Prompts*: the deviation that stays with any number of seeds, of prompts on which one method is better than
  on others. Above a quarter of the margin or so, 64 prompts per task cannot show equivalence.
- *Larger*: scores on `mini_large`, all test prompts with {LARGE_IMAGES} images each; rewards of every round,
  with running means over {WINDOW} rounds. Computed from the same runs, as if the part of images fell with
  their number.
- A true difference between 0 and the margin is neither verdict's: the nearer to the margin, the more seeds.

## The plan

- Scores on `mini_large`: {_hardest(tested, larger)}.
- Scores on `mini`: {_hardest(tested, as_measured)}.
- Rounds to a reward: equivalence within 10 % takes {_range(tested, larger)} seeds even with rewards of every
  round. A larger difference is found with fewer, as *seen* says.

## Do pairs of one seed help?

The rule: seeds are compared pair by pair where that lowers the variance of a difference and the F test of a
common effect of seeds has p < .05. Over all methods of this page:

| | methods | seeds | variance without pairs | variance of pairs | correlation | p | pairs |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
{pairs}
"""


def _hardest(tested: Sequence[Verdict], way: Way) -> str:
    """How many seeds decide all claims about scores, and all but the hardest."""
    needed = {
        f"`{verdict.claim.id}` at guidance {verdict.guidance:g}": needed_in(
            verdict, way, num_tests=len(tested)
        ).decide
        for verdict in tested
        if verdict.guidance is not None
    }
    never = [name for name, seeds in needed.items() if seeds is None]
    known = sorted(((seeds, name) for name, seeds in needed.items() if seeds is not None), reverse=True)
    text = f"{known[1][0]} seeds decide every score"
    if known[0][0] > known[1][0]:
        text += f" but that of {known[0][1]}, which takes {known[0][0]}"
    return text + (f", and no number decides {' and '.join(never)}" if never else "")


def _range(tested: Sequence[Verdict], way: Way) -> str:
    """The fewest and most seeds that equivalence takes, of claims about rounds."""
    numbers = [
        needed_in(verdict, way, num_tests=len(tested)).equivalence
        for verdict in tested
        if verdict.claim.metric == "rounds_to_level"
    ]
    known = [number for number in numbers if number is not None]
    return f"{min(known)} to {max(known)}"


def _pairs(name: str, effect: SeedEffect) -> str:
    cells = [
        *(name, f"{effect.num_methods}", f"{effect.num_seeds}", f"{effect.unpaired:.6f}"),
        *(f"{effect.paired:.6f}", f"{effect.correlation:+.2f}", f"{effect.p:.3f}"),
        "used" if effect.pairs_help else "not used",
    ]
    return f"| {' | '.join(cells)} |"


def pilot(folder: Path) -> Path:
    """The runs that the plan is made from: ``pilot``, once those that decide are in ``data``."""
    return folder / "pilot" if (folder / "pilot").is_dir() else folder / "data"


def main(folder: Path) -> None:
    """Write ``seeds.md`` beside ``data``."""
    (folder / "seeds.md").write_text(page(judged(pilot(folder))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
