"""Under which conditions a score was measured: two scores compare only where these agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics import Metric

from diffopd.config.folder import flat_settings
from diffopd.config.harmless import HOW_TO_SCORE
from diffopd.config.renamed import with_first_names
from diffopd.evaluation.benchmark import Benchmark
from diffopd.types import Prompts, Sampler, VelocityModel

Conditions = Mapping[str, str | int | float]
"""Name of a condition -> its value; what a score was measured with, without the adapter and its guidance."""

_OF_MODEL = ("image_size", "text_length")
_LETTERS = 16
"""Of a digest."""


def conditions_of(benchmark: Benchmark, model: VelocityModel) -> dict[str, dict[str, str | int | float]]:
    """Task -> conditions of its score, for tasks that have a metric.

    Prompts and metrics count by what they are (a digest), not by the benchmark's name or the file's place.
    The metric's settings are known where the benchmark was built from a config (``Benchmark.settings``).

    Args:
        benchmark: What is measured.
        model: The backbone that draws.
    """
    shared, settings = _shared(benchmark, model), benchmark.settings
    prompts = benchmark.prompts()
    return {
        task: {
            "images": len(prompts[task]),
            "prompts": _of_prompts(prompts[task]),
            "metric": _of_metric(
                benchmark.tasks[task].metric,
                settings.get("metric") if "tasks" not in settings else settings["tasks"][task].get("metric"),
            ),
            **shared,
        }
        for task in sorted(benchmark.scored_tasks)
    }


def held_out_conditions_of(
    benchmark: Benchmark, model: VelocityModel
) -> dict[str, dict[str, str | int | float]]:
    """Held-out metric -> conditions of its value, as :func:`conditions_of` has them for tasks.

    Images and prompts are those of all tasks whose images it sees. A part that is reported as a metric of its
    own was measured with what its metric was.

    Args:
        benchmark: What is measured.
        model: The backbone that draws.
    """
    shared, settings = _shared(benchmark, model), benchmark.settings.get("held_out") or {}
    prompts = benchmark.prompts()
    seen = {name: [t for t in prompts if name in benchmark.held_out_of(t)] for name in benchmark.held_out}
    found: dict[str, dict[str, str | int | float]] = {
        name: {
            "images": sum(len(prompts[task]) for task in seen[name]),
            "prompts": _digest([[task, _of_prompts(prompts[task])] for task in sorted(seen[name])]),
            "metric": _of_metric(metric, settings.get(name)),
            **shared,
        }
        for name, metric in sorted(benchmark.held_out.items())
    }
    of_parts = {name: place.partition(".")[::2] for name, place in sorted(benchmark.held_out_parts.items())}
    return found | {name: {**found[metric], "part": part} for name, (metric, part) in of_parts.items()}


def disagreements(ours: Conditions, theirs: Conditions) -> list[str]:
    """Each condition in which two scores differ, as ``images: 12 and 64``; empty if they compare.

    Args:
        ours: Conditions of one score; empty if they are not known.
        theirs: Of the other.
    """
    if not ours or not theirs:
        return ["how one of them was measured is not recorded"] if ours or theirs else []
    return [
        f"{name}: {ours.get(name, 'unknown')} and {theirs.get(name, 'unknown')}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def all_disagreements(
    ours: Mapping[str, Conditions], theirs: Mapping[str, Conditions], tasks: Sequence[str]
) -> list[str]:
    """:func:`disagreements` of several tasks, each with the task's name, what they share once."""
    found = {task: disagreements(ours.get(task, {}), theirs.get(task, {})) for task in tasks}
    shared = [
        line for line in next(iter(found.values()), []) if all(line in lines for lines in found.values())
    ]
    return [
        *shared,
        *(f"{task}, {line}" for task, lines in found.items() for line in lines if line not in shared),
    ]


def _shared(benchmark: Benchmark, model: VelocityModel) -> dict[str, str | int | float]:
    """What all scores of a benchmark have in common."""
    return _of_sampler(benchmark) | {"seed": benchmark.seed} | _of_model(model)


def _of_sampler(benchmark: Benchmark) -> dict[str, str | int | float]:
    settings = benchmark.settings.get("sampler")
    if not isinstance(settings, Mapping):
        settings = _read_off(benchmark.sampler)
    return {
        f"sampler.{path}": value if isinstance(value, str | int | float) else json.dumps(value)
        for path, value in flat_settings(settings)
        if path not in ("guidance_scale", "_target_") and not path.startswith("_")
    } | {"sampler": type(benchmark.sampler).__name__}


def _read_off(sampler: Sampler) -> dict[str, Any]:
    """What a sampler that no config describes says of itself."""
    known = ("num_steps", "noise_level", "shift")
    return {name: getattr(sampler, name) for name in known if hasattr(sampler, name)}


def _of_model(model: VelocityModel) -> dict[str, str | int | float]:
    """The base's identity, size of pictures and length of prompts, as far as the model has them."""
    found: dict[str, str | int | float] = {
        name: value if isinstance(value := getattr(model, name), int) else str(list(value))
        for name in _OF_MODEL
        if hasattr(model, name)
    }
    identity = getattr(model, "identity", None)
    return {**found, **({"base": str(identity)[:_LETTERS]} if identity else {})}


def _of_prompts(prompts: Prompts) -> str:
    pictures = [picture.digest for picture in prompts.targets if picture is not None]
    return _digest([prompts.texts, prompts.metadata, prompts.groups, *([pictures] if pictures else [])])


def _of_metric(metric: Metric | None, settings: Mapping[str, Any] | None) -> str:
    """The metric's class, and a digest of its settings if a config describes it."""
    name = type(metric).__name__
    if not settings:
        return name
    kept = [
        (path, value)
        for path, value in flat_settings(with_first_names(settings))
        if not set(path.split(".")).intersection(HOW_TO_SCORE)
    ]
    return f"{name} {_digest(sorted(kept, key=lambda entry: entry[0]))}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:_LETTERS]
