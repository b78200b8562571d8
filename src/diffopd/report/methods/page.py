"""Any set of runs as one page of HTML that needs nothing else, with its figures as PNG files beside it."""

from __future__ import annotations

import base64
import importlib.resources
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from diffopd.files.atomic import replacing
from diffopd.report.methods.archive import archive_runs
from diffopd.report.methods.claims import Claim
from diffopd.report.methods.costs import CostTable, cost_bars, cost_table
from diffopd.report.methods.curves import Family, curve_families
from diffopd.report.methods.difference import CONFIDENCE, TESTS, spread_text
from diffopd.report.methods.figures import Style, bar_figure, styles_of
from diffopd.report.methods.images import method_grids
from diffopd.report.methods.leaks import LeakTable, leak_table
from diffopd.report.methods.measured import QUANTITIES, Measuring, SeedValues
from diffopd.report.methods.methods import Method, differing_settings, group_runs
from diffopd.report.methods.pairing import SeedEffect
from diffopd.report.methods.runs import Run
from diffopd.report.methods.seeds import SeedTable, seed_tables, write_seed_tables
from diffopd.report.methods.seeds_needed import POWER
from diffopd.report.methods.strips import run_strips
from diffopd.report.methods.tables import ScoreTable, score_tables
from diffopd.report.methods.verdict import Verdict
from diffopd.report.methods.verdicts import LEVEL, judge

PAGE = "index.html"
FIGURES, DATA = "figures", "data"
"""Folders beside the page: of the PNGs, and of what the page was made from."""
_TEMPLATE = "page.html.jinja"
_FINE = 1.4
"""Plots are drawn finer than they are shown, so that text of all sizes of figure is of one size."""


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What a page shows.

    Attributes:
        title: Its heading.
        labels: A method's key -> what to call it.
        benchmark: The benchmark of the claims' final scores and of single images.
        window: Values in the running means of curves.
        num_images: Prompts of each task in grids of single images.
        include_unfinished: Whether runs that are not finished count.
        test: How seeds are compared, one of ``TESTS``.
        keep_data: Whether each run's metrics and scores are written beside the page.
    """

    title: str
    labels: Mapping[str, str]
    benchmark: str
    window: int
    num_images: int
    include_unfinished: bool
    test: str = TESTS[0]
    keep_data: bool = True


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the page.

    Attributes:
        name: Of its file.
        caption: What it shows.
        data: The PNG as a data URI.
        width: Width on the page in CSS pixels.
    """

    name: str
    caption: str
    data: str
    width: int

    @staticmethod
    def read(path: Path, caption: str, *, pixels_each: float) -> Figure:
        """Take a PNG into the page.

        Args:
            path: The PNG.
            caption: What it shows.
            pixels_each: Pixels of the PNG for one of the page.
        """
        with Image.open(path) as picture:
            width = round(picture.width / pixels_each)
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
        return Figure(name=path.name, caption=caption, data=f"data:image/png;base64,{encoded}", width=width)


@dataclass(frozen=True, kw_only=True)
class ClaimLine:
    """A claim and its verdict as the page prints them."""

    verdict: Verdict
    quantity: str
    method: str
    against: str
    method_value: str
    against_value: str
    difference: str
    interval: str
    p: str
    ratio: str


def write_page(
    runs: Sequence[Run], claims: Sequence[Claim], folder: Path, settings: PageSettings
) -> tuple[Path, Sequence[Verdict], Sequence[SeedTable]]:
    """Draw every figure, test every claim, write the page, its figures and what they were made from.

    Args:
        runs: Every run to show.
        claims: What is to be tested.
        folder: Gets the files.
        settings: What the page shows.

    Returns:
        The page, the verdicts, and the table of the seeds of each method that has several.
    """
    methods = group_runs(runs, settings.labels, include_unfinished=settings.include_unfinished)
    styles = styles_of([method.label for method in methods])
    measuring = Measuring(benchmark=settings.benchmark, window=settings.window)
    verdicts = judge(claims, methods, measuring, test=settings.test)
    figures = folder / FIGURES
    curves = {
        family: [
            Figure.read(path, caption, pixels_each=_FINE)
            for path, caption in family.draw(methods, figures, styles, settings.window)
        ]
        for family in curve_families(methods)
    }
    grids, without_images = method_grids(
        methods, figures, benchmark=settings.benchmark, num_per_task=settings.num_images
    )
    strips = run_strips(methods, figures)
    bars = cost_bars(methods)
    seeds = seed_tables(methods)
    if seeds:
        write_seed_tables(seeds, folder)
    text = _render(
        settings=settings,
        methods=methods,
        styles=styles,
        claims=[_claim_line(verdict, methods) for verdict in verdicts if not verdict.no_runs],
        confidence=f"{CONFIDENCE:.0%}",
        scores=score_tables(methods, verdicts),
        leaks=leak_table(methods),
        seeds=seeds,
        curves=curves,
        grids=[Figure.read(grid.path, grid.caption, pixels_each=1) for grid in grids],
        without_images=without_images,
        strips=[Figure.read(strip.path, strip.caption, pixels_each=1) for strip in strips],
        costs=cost_table(methods),
        bars=(
            Figure.read(bar_figure(bars, figures / "cost.png", styles=styles), _BARS, pixels_each=_FINE)
            if bars
            else None
        ),
        differing=differing_settings(methods),
        unfinished=[run for run in runs if not run.finished],
    )
    if settings.keep_data:
        archive_runs(runs, folder / DATA)
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / PAGE, verdicts, seeds


_BARS = (
    "Training time and peak memory of each method. Bar: mean over seeds; dark line: from the lowest to the "
    "highest seed."
)


def _render(
    *,
    settings: PageSettings,
    methods: Sequence[Method],
    styles: Mapping[str, Style],
    claims: Sequence[ClaimLine],
    confidence: str,
    scores: Sequence[ScoreTable],
    leaks: LeakTable | None,
    seeds: Sequence[SeedTable],
    curves: Mapping[Family, Sequence[Figure]],
    grids: Sequence[Figure],
    without_images: Sequence[str],
    strips: Sequence[Figure],
    costs: CostTable,
    bars: Figure | None,
    differing: Mapping[str, Sequence[str]],
    unfinished: Sequence[Run],
) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = (
        importlib.resources.files("diffopd.report.methods").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    return environment.from_string(template).render(
        settings=settings,
        methods=methods,
        colours={label: style.colour for label, style in styles.items()},
        claims=claims,
        effects=_effects([line.verdict for line in claims]),
        power=f"{POWER:.0%}",
        confidence=confidence,
        level=f"{LEVEL:.2g}",
        num_tests=sum(line.verdict.p is not None for line in claims),
        scores=scores,
        leaks=leaks,
        seeds=seeds,
        curves=curves,
        grids=grids,
        without_images=without_images,
        strips=strips,
        costs=costs,
        bars=bars,
        differing=differing,
        unfinished=unfinished,
        num_runs=sum(len(method.runs) + len(method.left_out) for method in methods),
        commits=list(dict.fromkeys(run.commit for method in methods for run in method.runs.values())),
    )


def _effects(verdicts: Sequence[Verdict]) -> dict[str, SeedEffect]:
    """What was compared -> what its seeds have in common, where there are several methods to tell by."""
    found: dict[str, SeedEffect] = {}
    for verdict in verdicts:
        if verdict.effect is not None:
            of = f" of {verdict.claim.task}" if verdict.claim.task else ""
            at = "" if verdict.guidance is None else f" at guidance {verdict.guidance:g}"
            to = "" if verdict.level is None else f" of {verdict.level:.3f}"
            found[f"{QUANTITIES[verdict.claim.metric].title}{of}{at}{to}"] = verdict.effect
    return found


def _claim_line(verdict: Verdict, methods: Sequence[Method]) -> ClaimLine:
    claim, quantity = verdict.claim, QUANTITIES[verdict.claim.metric]
    labels = {name: method.label for method in methods for name in (method.key, method.label)}
    what = quantity.title if verdict.level is None else f"{quantity.title} of {verdict.level:.3f}"
    if claim.task:
        what += f", {claim.task}"
    if verdict.guidance is not None:
        what += f", guidance {verdict.guidance:g}"
    digits, difference = quantity.digits, verdict.difference
    return ClaimLine(
        verdict=verdict,
        quantity=what,
        method=labels.get(claim.method, claim.method),
        against=labels.get(claim.against, claim.against),
        method_value=_over_seeds(verdict.method, digits),
        against_value=_over_seeds(verdict.against, digits),
        difference=(f"{difference.mean:+.{digits}f}" if difference else "-"),
        interval=(f"{difference.low:+.{digits}f} to {difference.high:+.{digits}f}" if difference else ""),
        p=verdict.shown_p,
        ratio=f"{verdict.ratio:.1f}" if verdict.ratio is not None else "-",
    )


def _over_seeds(measured: SeedValues | None, digits: int) -> str:
    if measured is None:
        return "-"
    values = list(measured.values.values())
    least = "≥ " if measured.unreached else ""
    return f"{least}{statistics.fmean(values):.{digits}f}{spread_text(values, digits)} (n = {len(values)})"
