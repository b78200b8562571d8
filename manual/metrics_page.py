"""What is logged and reported, as ``metrics.toml`` says, and its page."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings_page import table

FILE = Path(__file__).with_name("metrics.toml")
ALL_PHASES = (
    *("distill", "sft", "preference", "dmd", "tdm", "nft", "grpo", "self_opd", "online_dpo"),
    *("gradient_variance", "pretrain", "autoencoder"),
)
BETTER = ("higher", "lower", "neither")

HEAD = """# Metrics

What diffopd logs, and what evaluations and reports say: name, unit, which direction is better, and which
[phase](../phase.md) logs it. A test runs every phase and fails if a name is missing here.

## Logged in training

`metrics.csv`, TensorBoard and the other [loggers](settings.md#logger) get one value a round, usually the
mean over its updates and over processes; `pretrain` and `autoencoder` log every step. `<x>` stands for a
task, a step of the rollout (0 = pure noise), a part of a reward or a name from the config. Rewards in
training are those of a run's own rollouts on training prompts: compare runs by the scores of a
[benchmark](../evaluation.md).
"""

SCORES = """
## Reported by evaluations

`results.json` of [`diffopd.evaluate`](../evaluation.md) has for each task its `value`, the same for each
tag, and the parts of the metric; `held_out` has the metrics that look at all images of a benchmark. Which
weights and scale each scorer has is on the page [rewards](../reward.md).
"""

CLAIMS = """
## Compared by claims

[`diffopd.report`](../report.md#claims-and-their-test) compares methods by one of these, one number for
each seed.
"""


@dataclass(frozen=True)
class Logged:
    """A logged name.

    Attributes:
        name: The name, with ``<x>`` for a part that varies.
        unit: Its unit; empty if it has none.
        better: Which direction is better: ``higher``, ``lower`` or ``neither``.
        phases: The phases that log it.
        text: What it says.
    """

    name: str
    unit: str
    better: str
    phases: tuple[str, ...]
    text: str

    def is_name_of(self, logged: str) -> bool:
        """Whether a logged name is one of those it stands for; a part holds no slash."""
        parts = re.split(r"<\w+>", self.name)
        return re.fullmatch("[^/]+".join(map(re.escape, parts)), logged) is not None


def read() -> dict[str, list[dict[str, Any]]]:
    """The tables of ``metrics.toml``: ``logged``, ``score`` and ``claim``."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def logged() -> list[Logged]:
    """The logged names, in the file's order."""
    every = []
    for entry in read()["logged"]:
        phases = ALL_PHASES if entry["phases"] == ["all"] else tuple(entry["phases"])
        every.append(Logged(entry["name"], entry["unit"], entry["better"], phases, entry["text"]))
    return every


def page() -> str:
    """The whole page."""
    tables = read()
    names = table(["Name", "Unit", "Better", "Phases", "What it says"], map(_line, logged()))
    scores = table(
        ["Name", "Metrics", "Unit", "Better", "What it says"],
        ([f"`{e['name']}`", e["metrics"], e["unit"], e["better"], e["text"]] for e in tables["score"]),
    )
    claims = table(
        ["Name", "Unit", "Better", "What it says"],
        ([f"`{e['name']}`", e["unit"], e["better"], e["text"]] for e in tables["claim"]),
    )
    return "\n".join([HEAD, names, SCORES, scores, CLAIMS, claims, ""])


def _line(entry: Logged) -> Sequence[str]:
    return [f"`{entry.name}`", entry.unit, entry.better, ", ".join(_phases(entry.phases)), entry.text]


def _phases(phases: Sequence[str]) -> Iterator[str]:
    if tuple(phases) == ALL_PHASES:
        yield "all"
    else:
        yield from (f"`{phase}`" for phase in phases)
