"""A run's files when its training has ended: what it cost, and the page that reports it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffopd.files.names import CONFIG
from diffopd.report.run.page import PageTable, Pictures, Plot, RunPage, print_end
from diffopd.report.run.timed import Timed
from diffopd.run.metrics_csv import METRICS, read_rows
from diffopd.teacher import Recipe


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Where a run's files are.

    Attributes:
        folder: The run's folder.
        name: The ``name`` of its config.
        command: The command that made it.
        seed: Its seed.
        fit_minutes: Wall-clock minutes of this process's part of the training, with all that is done between
            its rounds.
    """

    folder: Path
    name: str
    command: str
    seed: int
    fit_minutes: float = 0.0

    @property
    def others(self) -> Mapping[str, Path]:
        """Files to list beside the report's own."""
        return {"config": self.folder / CONFIG, "LoRA": self.folder / "lora"}

    @cached_property
    def recipe(self) -> Recipe:
        """How the run was made and what training cost, including what was done before a resume.

        Its minutes are those of the rounds alone. Read once, when training has ended.
        """
        lines = read_rows(self.folder / METRICS)

        def total(metric: str) -> float:
            return sum(float(line[metric]) for line in lines if line.get(metric))

        return Recipe(
            command=self.command,
            seed=self.seed,
            minutes=round(total("train/time/seconds_per_round") / 60, 1),
            images=round(total("train/cost/images")),
            reward_calls=round(total("train/cost/reward_calls")),
            commit=commit(),
        )

    def minutes(self, timed: Timed) -> dict[str, float]:
        """Minutes of training and of each part of the report.

        Training is this process's, or the sum of all rounds where a resume makes that the larger.
        """
        return {"training": max(self.fit_minutes, self.recipe.minutes), **timed.minutes}

    def write_page(
        self,
        timed: Timed,
        *,
        lead: Sequence[str],
        tables: Sequence[PageTable],
        plots: Sequence[Plot],
        plots_heading: str,
        plots_note: str,
        pictures: Sequence[Pictures] = (),
    ) -> None:
        """Write the run's page and print its last lines; arguments as for :class:`RunPage`."""
        minutes = self.minutes(timed)
        page = RunPage(
            title=f"{self.name}, seed {self.seed}",
            lead=[sentence for sentence in lead if sentence],
            tables=tables,
            plots=plots,
            plots_heading=plots_heading,
            plots_note=plots_note,
            pictures=pictures,
            minutes=minutes,
            command=self.command,
            commit=commit(),
            seed=self.seed,
        ).write(self.folder / "report")
        print_end(page, minutes)


def commit() -> str:
    """Commit of the checkout the code runs from, or ``unknown``."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
