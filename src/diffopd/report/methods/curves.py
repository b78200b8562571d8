"""Which curves a page shows: metrics of one kind in one figure, against rounds and against minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from diffopd.report.methods.bands import Band, band_by_minutes, band_by_round
from diffopd.report.methods.figures import Style, curve_figure
from diffopd.report.methods.methods import Method
from diffopd.report.methods.step_curves import PREFIXES, StepCurves

_NOT_CURVES = ("train/time", "train/memory", "train/cost", *PREFIXES)


@runtime_checkable
class Family(Protocol):
    """A part of the page with its figures."""

    @property
    def title(self) -> str:
        """Heading."""
        ...

    @property
    def note(self) -> str:
        """What a reader has to know."""
        ...

    @property
    def absent(self) -> str:
        """What the page says where there is no figure; empty = nothing."""
        ...

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        ...

    def draw(
        self, methods: Sequence[Method], folder: Path, styles: Mapping[str, Style], window: int
    ) -> list[tuple[Path, str]]:
        """Write the figures; their paths and captions."""
        ...


@dataclass(frozen=True, kw_only=True)
class CurveFamily:
    """Metrics of one kind, ``<prefix>/<name>``.

    Attributes:
        prefix: What their names begin with.
        title: Heading of their part of the page.
        y: What the vertical axis is.
        note: What a reader has to know.
        by_minutes: Whether they are drawn against minutes, too.
        absent: What the page says where no run has any; empty = nothing.
    """

    prefix: str
    title: str
    y: str
    note: str
    by_minutes: bool
    absent: str

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return self.prefix.replace("/", "-") or "other"

    def draw(
        self, methods: Sequence[Method], folder: Path, styles: Mapping[str, Style], window: int
    ) -> list[tuple[Path, str]]:
        """Write the figures; their paths and captions."""
        names = _names(self.prefix, methods)
        by_round = {name: self._bands(methods, name, window, by_minutes=False) for name in names}
        by_minutes = {name: self._bands(methods, name, window, by_minutes=True) for name in names}
        file = self.prefix.removeprefix("train/") or "other"
        figures = []
        for panels, x, ending in (
            (by_round, "round", "by_round"),
            (by_minutes if self.by_minutes else {}, "minutes of training", "by_minutes"),
        ):
            start = f"{self.prefix or 'train'}/"
            shown = {name.removeprefix(start): bands for name, bands in panels.items() if bands}
            if shown:
                path = curve_figure(shown, folder / f"{file}_{ending}.png", x=x, y=self.y, styles=styles)
                figures.append((path, self._caption(shown, x, window)))
        return figures

    def _bands(
        self, methods: Sequence[Method], name: str, window: int, *, by_minutes: bool
    ) -> dict[str, Band]:
        """Label of a method -> its curve of one metric."""
        bands: dict[str, Band | None] = {}
        for method in methods:
            runs = [run for run in method.runs.values() if name in run.series]
            if by_minutes:
                seeds = [(run.series[name], run.minutes) for run in runs]
                bands[method.label] = band_by_minutes(seeds, window=window)
            else:
                bands[method.label] = band_by_round([run.series[name] for run in runs], window=window)
        return {label: band for label, band in bands.items() if band is not None}

    def _caption(self, panels: Mapping[str, Mapping[str, Band]], x: str, window: int) -> str:
        seeds: dict[str, int] = {}
        for bands in panels.values():
            for label, band in bands.items():
                seeds[label] = max(seeds.get(label, 0), band.num_seeds)
        against = f"{self.title} against {'rounds' if x == 'round' else x}"
        mean = f"running mean of {window} logged values, at most a third of all"
        if max(seeds.values()) == 1:
            return f"{against}. Line: {mean}; one seed each, so no bands."
        if len(set(seeds.values())) == 1:
            n = f"n = {max(seeds.values())} seeds each"
        else:
            n = "seeds: " + ", ".join(f"{label} {number}" for label, number in seeds.items())
        return (
            f"{against}. Line: mean over seeds of each seed's {mean}; band: "
            f"lowest to highest seed; {n}. A method is drawn up to the round that all of its seeds have "
            "reached."
        )


_KNOWN = (
    CurveFamily(
        prefix="train/reward",
        title="Reward in training",
        y="reward",
        note=(
            "Mean reward of a round's rollouts on training prompts, each method's rollouts at its own noise "
            "level and guidance: stochastic rollouts end in noisier images, so methods of different noise "
            "compare by their benchmark scores, not by these curves alone."
        ),
        by_minutes=True,
        absent="No run logged rewards (train/reward/<task>).",
    ),
    CurveFamily(
        prefix="train/held_out",
        title="Held-out rewards in training",
        y="reward",
        note="Rewards of the same rollouts that no method was trained on.",
        by_minutes=True,
        absent="No run logged held-out rewards (phase.held_out).",
    ),
    CurveFamily(
        prefix="train/gap",
        title="Gap to the teacher in training",
        y="mean squared velocity gap",
        note="Mean squared difference of student's and teacher's velocity at the states the student visits.",
        by_minutes=True,
        absent="No run logged a gap to teachers (train/gap/<task>); only distillation does.",
    ),
    CurveFamily(
        prefix="train/loss",
        title="Loss in training",
        y="loss",
        note="One panel for each loss. Losses of different kinds have different units and do not compare.",
        by_minutes=False,
        absent="No run logged a loss (train/loss/<name>).",
    ),
)


_OTHERS = CurveFamily(
    prefix="",
    title="Other metrics in training",
    y="",
    note="Everything else that was logged in training, by the names it has in metrics.csv, without train/.",
    by_minutes=False,
    absent="",
)


def curve_families(methods: Sequence[Method]) -> list[Family]:
    """The known families, the steps of a rollout, and one for all other metrics if there are any."""
    return [*_KNOWN, StepCurves(), *([_OTHERS] if _names(_OTHERS.prefix, methods) else [])]


def _names(prefix: str, methods: Sequence[Method]) -> list[str]:
    """Metrics of a family."""
    every = dict.fromkeys(
        name for method in methods for run in method.runs.values() for name in run.series if "/" in name
    )
    known = (*(family.prefix for family in _KNOWN), *_NOT_CURVES)
    if not prefix:
        return [name for name in every if not name.startswith(tuple(f"{other}/" for other in known))]
    return [name for name in every if name.startswith(f"{prefix}/")]
