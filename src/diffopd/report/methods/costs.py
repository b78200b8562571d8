"""What methods took, over seeds: time, memory, images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffopd.report.methods.methods import Method
from diffopd.report.run.curve import SECONDS

_TIME, _MEMORY = "train/time/", "train/memory/"


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """What each method took.

    Attributes:
        columns: Quantities with their units.
        rows: Label of a method -> one text per column.
    """

    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def mean_and_range(values: Sequence[float], digits: int) -> str:
    """``mean (lowest to highest)`` over seeds; the value alone for one seed, a dash for none."""
    if not values:
        return "-"
    ends = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):,.{digits}f}{ends}"


def cost_table(methods: Sequence[Method]) -> CostTable:
    """Training minutes, images and reward calls; every ``train/time`` and ``train/memory`` metric."""
    names = dict.fromkeys(
        name
        for method in methods
        for run in method.runs.values()
        for name in run.series
        if name.startswith((_TIME, _MEMORY))
    )
    columns = {
        "seeds": lambda method: f"{method.num_seeds}",
        "rounds": lambda method: _whole([run.num_rounds for run in method.runs.values()]),
        "minutes of training": lambda method: mean_and_range(_minutes(method), 1),
        "images drawn": lambda method: _whole([run.images for run in method.runs.values()]),
        "images scored": lambda method: _whole([run.reward_calls for run in method.runs.values()]),
        **{
            title_of(name): lambda method, name=name: mean_and_range(_over_rounds(method, name), 2)
            for name in names
        },
    }
    counted = [method for method in methods if method.runs]
    return CostTable(
        columns=list(columns),
        rows={method.label: [column(method) for column in columns.values()] for method in counted},
    )


def cost_bars(methods: Sequence[Method]) -> dict[str, dict[str, list[float]]]:
    """Quantity -> label -> one value per seed, of time and memory; without what no run logged."""
    quantities = {
        "minutes of training": _minutes,
        **{
            title_of(name): lambda method, name=name: _over_rounds(method, name)
            for name in (SECONDS, f"{_MEMORY}peak_rss_gib", f"{_MEMORY}peak_cuda_gib")
        },
    }
    bars = {
        title: {method.label: values for method in methods if (values := of(method))}
        for title, of in quantities.items()
    }
    return {title: found for title, found in bars.items() if found}


def title_of(name: str) -> str:
    """What a reader calls a metric of time or memory.

    Examples:
        >>> title_of("train/memory/peak_cuda_gib")
        'peak GPU memory, GiB'
        >>> title_of("train/time/seconds_rollout")
        'seconds rollout'
    """
    titles = {
        SECONDS: "seconds per round",
        f"{_TIME}samples_per_second": "samples per second",
        f"{_MEMORY}peak_rss_gib": "peak memory of the process, GiB",
        f"{_MEMORY}peak_cuda_gib": "peak GPU memory, GiB",
    }
    return titles.get(name, name.rpartition("/")[2].replace("_", " "))


def _minutes(method: Method) -> list[float]:
    return [max(run.minutes.values()) for run in method.runs.values() if run.minutes]


def _over_rounds(method: Method, name: str) -> list[float]:
    """Each seed's median over rounds, for memory its highest."""
    summary = max if name.startswith(_MEMORY) else statistics.median
    return [float(summary(run.series[name].values)) for run in method.runs.values() if name in run.series]


def _whole(values: Sequence[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return "-"
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
