"""The runs that ablation files ask for, each distinct one once."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from diffopd.check import ConfigError, check_composed, did_you_mean
from diffopd.config.arguments import quoted
from diffopd.config.folder import config_folder
from diffopd.config.harmless import TRAINING, is_harmless
from diffopd.config.renamed import with_first_names
from diffopd.config.saved import read_config
from diffopd.files.names import CONFIG
from diffopd.jobs.comparison import RowRun, scoring
from diffopd.jobs.launch import Job, training_command

SINGLE = "hydra.mode=RUN"
"""A file of an ablation sweeps; a cell is one training of it."""
CLAIMS = {
    **dict.fromkeys(("all", "method", "formulation"), "figures"),
    **dict.fromkeys(("noise_weights", "noise_normalize", "noise_rounds", "noise_steps"), "noise"),
    **{name: name for name in ("on_policy", "factors", "dopsd_leak")},
}
"""Page of an ablation -> file of ``conf/claims`` that it tests."""
BENCHMARKS = {"factors": "mini_factors"}
"""Page of an ablation whose runs bring a benchmark of their own -> that, whose values its claims compare."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training as one ablation asks for it; another may ask for the same.

    Attributes:
        ablation: File of ``conf/experiment/ablation``.
        label: What it varies, e.g. ``states=single``.
        name: The same as the name of a run; a training that several ablations ask for has the first one's.
        seed: Its seed.
        overrides: Of ``diffopd.train``.
        folder: The training's, named by its config.
        first: Names of the runs that it depends on.
    """

    ablation: str
    label: str
    name: str
    seed: int
    overrides: Sequence[str]
    folder: Path
    first: Sequence[str]


def ablation_names() -> list[str]:
    """The files of ``conf/experiment/ablation``."""
    folder = Path(config_folder()) / "experiment" / "ablation"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_cells(cfg: DictConfig, folder: Path) -> list[Cell]:
    """All cells of a composed ``conf/ablations.yaml``, the first seed of each file first.

    Raises:
        ConfigError: If a file is not there, or a cell's config cannot work.
    """
    known = ablation_names()
    every = [name for name in known if name not in cfg.not_in_all]
    names = every if cfg.ablations == "all" else list(cfg.ablations)
    if not names:
        raise ConfigError("ablations=[] names none, so there is nothing to train; name some, or all")
    for name in names:
        if name not in known:
            raise ConfigError(
                f"ablations has {name}, and conf/experiment/ablation has {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    shared = [f"trainer.num_threads={cfg.threads_each}", *cfg.overrides]
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.seeds)
    cells = [
        cell
        for name in names
        for cell in _cells(name, shared, folder / "cells", list(cfg.first.get(name, {})), seeds)
        if cell.seed in seeds  # a file without seeds is one run, of seed 0
    ]
    if not cells:
        raise ConfigError(
            f"ablations={names} sweep no seed, so first_seed={cfg.first_seed} leaves nothing to train; take 0"
        )
    return sorted(cells, key=lambda cell: cell.seed)


def _cells(
    name: str, shared: Sequence[str], folder: Path, first: Sequence[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    experiment = f"+experiment=ablation/{name}"
    swept = compose("train", overrides=[experiment], return_hydra_config=True).hydra.sweeper.params or {}
    seeded = "seed" in swept and not any(override.startswith("seed=") for override in shared)
    settings: dict[str, Mapping[str, Any]] = {}
    if "seed" in swept:  # the file's own seeds are those of the ordinary sweep; here they are counted
        swept = {**swept, "seed": ",".join(map(str, seeds))}
    for choices in itertools.product(*(_choices(key, value) for key, value in swept.items())):
        overrides = [experiment, *choices, *shared]
        varied = [choice.removeprefix("+") for choice in choices if not choice.startswith("seed=")]
        label = ",".join(varied)
        run_name = label.removeprefix("variant=") if "variant=" in label else f"{name}_{label}"
        seed = int(next((choice.removeprefix("seed=") for choice in choices if "seed=" in choice), 0))
        if label not in settings:
            # What needs another training may name what is not there yet, and is checked when its turn comes.
            settings[label] = _plain(
                compose("train", overrides=[*overrides, "paths.run=run"])
                if first
                else check_composed("train", overrides, folder, setting=f"ablations.{name}")
            )
        yield Cell(
            ablation=name,
            label=label,
            name=re.sub(r"[^\w.]+", "_", run_name).strip("_"),
            seed=seed,
            overrides=overrides,
            folder=folder / _key({**settings[label], **({"seed": seed} if seeded else {})}),
            first=first,
        )


def _choices(key: str, value: object) -> list[str]:
    """Every override of one swept setting, as Hydra's own sweeper makes them."""
    override = OverridesParser.create().parse_override(f"{key}={value}")
    if not override.is_sweep_override():
        return [f"{key}={value}"]
    return [f"{key}={choice}" for choice in override.sweep_string_iterator()]


def _key(settings: Mapping[Any, Any]) -> str:
    """A name made of all settings that make the training."""
    values = {
        str(key): _same(value)
        for key, value in with_first_names(settings).items()
        if not is_harmless(str(key), TRAINING)
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _plain(cfg: DictConfig) -> Mapping[Any, Any]:
    """A config as it was written, but for what its domain supplies: that may be said in numbers as well."""

    def known(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: known(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [known(entry) for entry in value]
        of_domain = isinstance(value, str) and value.startswith("${domain.") and value.endswith("}")
        if not of_domain:
            return value
        found = OmegaConf.select(cfg, value[2:-1])
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    plain = cast(Mapping[Any, Any], OmegaConf.to_container(cfg))
    return {key: known(value) for key, value in plain.items() if key != "domain"}


def _same(value: Any) -> Any:
    """``value`` with equal numbers written alike: 1 for 1.0."""
    if isinstance(value, Mapping):
        return {str(key): _same(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_same(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def jobs_of(cells: Sequence[Cell], first: Mapping[str, Sequence[str]], folder: Path) -> list[Job]:
    """A job for each distinct training, those that others need at the front.

    Args:
        cells: Of all ablations.
        first: Overrides of the runs that cells depend on.
        folder: Gets the logs of those.
    """
    needed = dict.fromkeys(name for cell in cells for name in cell.first)
    distinct: dict[Path, Cell] = {}
    for cell in cells:
        distinct.setdefault(cell.folder, cell)
    return [
        *(
            Job(
                name=name,
                needs=(),
                commands=lambda name=name: iter([["diffopd.train", *first[name], "if_finished=skip"]]),
                log=folder / "first" / f"{name}.log",
            )
            for name in needed
        ),
        *(
            Job(
                name=f"{cell.ablation}: {cell.label or 'one run'}, seed {cell.seed}",
                needs=cell.first,
                commands=lambda cell=cell: iter(
                    [training_command(cell.folder, [*cell.overrides, f"name={cell.name}", SINGLE])]
                ),
                log=cell.folder.with_suffix(".log"),
            )
            for cell in distinct.values()
        ),
    ]


def scoring_jobs(
    cells: Sequence[Cell], benchmarks: Sequence[str], guidance: Sequence[float], threads: int | str
) -> list[Job]:
    """What every trained student is scored on besides its own benchmark; a score that is there is kept.

    Args:
        cells: Of all ablations; those that keep no adapter are left out.
        benchmarks: Files of ``conf/benchmark``.
        guidance: Scales.
        threads: Torch threads of each evaluation, or ``auto``.
    """
    runs = [
        RowRun(
            row=cell.folder.name,
            seed=cell.seed,
            command="train",
            arguments=(),
            teachers={},
            guidance=[float(scale) for scale in guidance],
            note=cell.label,
            folder=cell.folder,
        )
        for cell in {cell.folder: cell for cell in cells if cell.label}.values()
    ]
    return [
        Job(
            name=f"scores: {run.note}, seed {run.seed}",
            needs=(),
            commands=lambda run=run: scoring(run, benchmarks, [], threads),
            log=run.folder.with_suffix(".scores.log"),
        )
        for run in runs
        if benchmarks
    ]


def report_jobs(
    cells: Sequence[Cell], folder: Path, *, benchmark: str = "mini", running_mean: int = 9
) -> list[Job]:
    """A page of every ablation that compares something, in order, and one of all runs.

    Args:
        cells: Of all ablations.
        folder: Gets ``report/<ablation>/``, and ``report/all/`` where there are several.
        benchmark: Whose scores the claims compare, but for those of ``BENCHMARKS``.
        running_mean: Values in running means of rewards.
    """
    pages: dict[str, list[Cell]] = {}
    for cell in cells:
        pages.setdefault(cell.ablation, []).append(cell)
    compared = {name: page for name, page in pages.items() if len({cell.label for cell in page}) > 1}
    if len(compared) > 1:
        compared["all"] = list({cell.folder: cell for page in compared.values() for cell in page}.values())
    return [
        Job(
            name=f"report: {name}",
            needs=(),
            commands=lambda name=name, page=page: iter(
                [
                    [
                        *_report(name, page, folder),
                        f"benchmark_name={BENCHMARKS.get(name, benchmark)}",
                        f"running_mean={running_mean}",
                    ]
                ]
            ),
            log=None,
        )
        for name, page in compared.items()
    ]


def _report(name: str, page: Sequence[Cell], folder: Path) -> list[str]:
    """Its arguments; the runs are done, and one that several files share has the name of one of them."""
    labels = {
        str(read_config(cell.folder / CONFIG).name): cell.label.removeprefix("variant=") for cell in page
    }
    labels = {key: label for key, label in labels.items() if key != label and name != "all"}
    shown = ",".join(f"{key}:{quoted(label)}" for key, label in labels.items())
    return [
        "diffopd.report",
        f"runs=[{','.join(quoted(str(cell.folder)) for cell in page)}]",
        f"labels={{{shown}}}" if shown else "labels=null",
        f"title={quoted(f'Ablation: {name}')}",
        f"out={quoted(str(folder / 'report' / name))}",
        f"claims={CLAIMS.get(name, 'none')}",
    ]


def index_of(cells: Sequence[Cell]) -> Mapping[str, Mapping[str, str]]:
    """What each ablation varies, with the seed -> folder of the training."""
    index: dict[str, dict[str, str]] = {}
    for cell in cells:
        label = ",".join([*filter(None, [cell.label]), f"seed={cell.seed}"])
        index.setdefault(cell.ablation, {})[label] = cell.folder.name
    return index
