"""What is kept of a round in which a number was not finite: words for people, state to do it again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffopd.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json
from diffopd.non_finite.error import Suspect

FOLDER = "non_finite"
"""Subfolder of a run's folder; in it one folder per round."""
_REPORT, _STATE = "report.json", "state"
SHOWN = 5
"""Suspects named in a message; the report has all."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A number that was not finite.

    Attributes:
        phase: Class of the phase.
        what: ``loss``, ``gradient``, ``reward`` or ``metric``.
        problem: What was found.
        round: Number of the round, from 1.
        batch: Number of the batch in the round, from 0.
        update: Number of the update within the round, from 0.
        global_step: Updates applied before.
        seed: The run's; with the round and a sample's index it gives every draw.
        suspects: Samples that may have caused it; empty if unknown.
        metrics: What was last logged, as text.
    """

    phase: str
    what: str
    problem: str
    round: int
    batch: int
    update: int
    global_step: int
    seed: int | None
    suspects: Sequence[Suspect]
    metrics: Mapping[str, str]

    def __str__(self) -> str:
        lines = [
            f"{self.phase}: {self.problem} in round {self.round}, update {self.update + 1} of the round "
            f"(optimizer step {self.global_step}); that update was not applied"
        ]
        if self.suspects:
            steps = sorted({s.step for s in self.suspects if s.step is not None})
            tasks = dict.fromkeys(s.task for s in self.suspects)
            at = f" at denoising step {', '.join(map(str, steps))}" if steps else ""
            lines.append(f"first in the {self.what}{at}, task {', '.join(tasks)}, run seed {self.seed}:")
            lines += [f"  {suspect}" for suspect in self.suspects[:SHOWN]]
            if len(self.suspects) > SHOWN:
                lines.append(f"  and {len(self.suspects) - SHOWN} more")
        return "\n".join(lines)


def write_report(run: Path, report: Report, state: Any) -> Path:
    """Write ``<run>/non_finite/round_000003/``; an older report of the same round is replaced.

    Args:
        run: The run's folder.
        report: What was found.
        state: Tensors and plain data that the round can be done again from.

    Returns:
        The folder.
    """
    folder = run / FOLDER / f"round_{report.round:06d}"
    write_checkpoint(state, folder / _STATE)
    write_sealed_json(folder / _REPORT, dataclasses.asdict(report))
    return folder


def find_report(run: Path, number: int | None = None) -> tuple[Report, Any]:
    """A report and its state.

    Args:
        run: The run's folder.
        number: Of the round; None for the last that has a report.

    Raises:
        ValueError: If there is none, or it is not what was written.
    """
    found = (file.parent.name.removeprefix("round_") for file in run.glob(f"{FOLDER}/round_*/{_REPORT}"))
    rounds = sorted(int(number) for number in found if re.fullmatch("[0-9]+", number))
    if not rounds or (number is not None and number not in rounds):
        has = f"there are reports of rounds {', '.join(map(str, rounds))}" if rounds else "it has no report"
        asked = "" if number is None else f" of round {number}"
        raise ValueError(f"run={run} holds no {FOLDER} report{asked}; {has}")
    folder = run / FOLDER / f"round_{rounds[-1] if number is None else number:06d}"
    kept = read_sealed_json(folder / _REPORT, [field.name for field in dataclasses.fields(Report)])
    try:
        kept["suspects"] = [Suspect(**suspect) for suspect in kept["suspects"]]
        return Report(**kept), read_checkpoint(folder / _STATE)
    except (KeyError, TypeError) as error:
        raise DamagedFileError(folder / _REPORT, f"it holds no report ({error!r})") from error
    except CheckpointError as error:  # of a state there is no earlier one
        what = str(error).removesuffix("; use an earlier checkpoint")
        raise ValueError(f"run={run}: round {folder.name} cannot be repeated: {what}") from error
