"""Runs that differ only in their seed are one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffopd.config.added import ADDED
from diffopd.config.folder import flat_settings
from diffopd.config.harmless import METHOD, is_harmless
from diffopd.report.methods.runs import Run

_WHOLE, _MOST_SETTINGS = 2, 6
"""Settings that a method's key can hold by their whole paths, and by the ends of their paths."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Runs of one method.

    Attributes:
        key: What claims and ``labels`` call it: the ``name`` of its runs. Where runs of one name differ in a
            setting or two, these are added, as in ``mopd_ode, sampler.noise_level=0.7``; where they differ in
            up to six, with short names, as in ``mopd_ode, noise_level=0.7, lr=0.001, rank=8``; where they
            differ in more, the first that are special to it and a number, as in ``mopd_ode (2), lr=0.001``.
        label: What people read.
        runs: Seed -> run. Runs that are not finished are here only if they are to be counted.
        left_out: Run -> why it does not count.
        settings: Its settings, flat: config path -> value.
    """

    key: str
    label: str
    runs: Mapping[int, Run]
    left_out: Sequence[tuple[Run, str]]
    settings: Mapping[str, Any]

    @property
    def every_run(self) -> list[tuple[Run, str]]:
        """All runs, each with why it does not count, empty if it does."""
        return [*((run, "") for run in self.runs.values()), *self.left_out]

    @property
    def num_seeds(self) -> int:
        """How many runs count."""
        return len(self.runs)


def group_runs(runs: Sequence[Run], labels: Mapping[str, str], *, include_unfinished: bool) -> list[Method]:
    """Put runs of one method together.

    Args:
        runs: In the order to show them.
        labels: A method's key -> what to call it.
        include_unfinished: Whether runs that are not finished count.

    Raises:
        ValueError: If ``labels`` names a method that is not there.
    """
    alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[Run]] = {}
    for run in runs:
        settings = method_settings(run)
        same = (run.name, tuple((path, shown_value(settings[path])) for path in sorted(settings)))
        alike.setdefault(same, []).append(run)
    methods: list[Method] = []
    for (name, _), same in alike.items():
        variants = [method_settings(found[0]) for (other, _), found in alike.items() if other == name]
        key = name if len(variants) == 1 else _key(name, method_settings(same[0]), variants)
        methods.append(_method(key, labels.get(key, key), same, include_unfinished))
    if unknown := [key for key in labels if key not in {method.key for method in methods}]:
        raise ValueError(
            f"labels has {', '.join(unknown)}, and no run is called that; there are "
            f"{'; '.join(method.key for method in methods)}"
        )
    return methods


def differing_settings(methods: Sequence[Method]) -> dict[str, list[str]]:
    """Config path -> each method's value, for settings in which methods differ; ``-`` where it is absent."""
    known = [method for method in methods if method.settings]
    paths = dict.fromkeys(path for method in known for path in method.settings)
    values = {path: [shown_value(method.settings.get(path, "-")) for method in methods] for path in paths}
    return {
        path: row
        for path, row in values.items()
        if len({shown_value(method.settings.get(path, "-")) for method in known}) > 1
    }


def shown_value(value: Any) -> str:
    """A setting as it is compared and shown: equal numbers alike.

    Examples:
        >>> shown_value(0.0), shown_value(0), shown_value(1e-3), shown_value([1.0, 2]), shown_value(True)
        ('0', '0', '0.001', '[1, 2]', 'True')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown_value, value))}]"
    return str(value)


def method_settings(run: Run) -> dict[str, Any]:
    """Settings of a run that make its method, flat: config path -> value."""
    kept = {key: value for key, value in run.settings.items() if not is_harmless(key, METHOD)}
    if len(run.config_texts) > 1:  # a cascade's last stage starts from a folder with the seed in its name
        kept["adapter"] = {key: value for key, value in kept["adapter"].items() if key != "start"}
    rounds = {"trainer.max_epochs": run.planned_rounds} if run.planned_rounds is not None else {}
    later = {path: value for path, value in ADDED.items() if path.partition(".")[0] in kept}
    found = {
        path: _of_any_seed(value, run.seed)
        for path, value in flat_settings(kept)
        if not _is_seed(path, value, run.seed)
    }
    return later | found | rounds


def _is_seed(path: str, value: Any, seed: int) -> bool:
    """Whether a setting is the run's seed handed on, as in ``data.seed``."""
    return path.rpartition(".")[2] == "seed" and value == seed


def _of_any_seed(value: Any, seed: int) -> Any:
    """A path to what was trained with the run's own seed, as a table gives to a student, without that seed.

    Examples:
        >>> _of_any_seed("runs/ocr/seed2/adapter", 2), _of_any_seed("runs/ocr/seed0/adapter", 2)
        ('runs/ocr/seed*/adapter', 'runs/ocr/seed0/adapter')
    """
    if not isinstance(value, str):
        return value
    return "/".join("seed*" if part == f"seed{seed}" else part for part in value.split("/"))


def _method(key: str, label: str, runs: Sequence[Run], include_unfinished: bool) -> Method:
    counted: dict[int, Run] = {}
    left_out: list[tuple[Run, str]] = []
    for run in runs:
        if not run.finished and not include_unfinished:
            left_out.append((run, "not finished"))
        elif run.seed in counted:
            left_out.append((run, f"same method and seed as {counted[run.seed].folder}"))
        else:
            counted[run.seed] = run
    return Method(
        key=key,
        label=label,
        runs=dict(sorted(counted.items())),
        left_out=left_out,
        settings=method_settings(runs[0]),
    )


def _key(name: str, own: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> str:
    """The name with what tells it from the others of that name."""
    paths = list(dict.fromkeys(path for variant in variants for path in variant))
    values = {path: [shown_value(variant.get(path, "-")) for variant in variants] for path in paths}
    different = [path for path in paths if len(set(values[path])) > 1]
    told = {path: shown_value(own.get(path, "-")) for path in different}
    if len(different) <= _WHOLE:
        return ", ".join([name, *(f"{path}={value}" for path, value in told.items())])
    short = short_names(different)
    if len(different) <= _MOST_SETTINGS:
        return ", ".join([name, *(f"{short[path]}={value}" for path, value in told.items())])
    special = [path for path in different if values[path].count(told[path]) <= len(variants) / 2]
    shown = [f"{short[path]}={told[path]}" for path in special[: _MOST_SETTINGS // 2]]
    return ", ".join([f"{name} ({variants.index(own) + 1})", *shown])


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Config path -> the shortest end of it that no other of the paths has.

    Examples:
        >>> short_names(["sampler.noise_level", "optimizer.lr", "phase.fake_optimizer.lr"]).values()
        dict_values(['noise_level', 'optimizer.lr', 'fake_optimizer.lr'])
    """
    return {
        path: next(end for end in _ends(path) if sum(_has_end(other, end) for other in paths) == 1)
        for path in paths
    }


def _ends(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _has_end(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")
