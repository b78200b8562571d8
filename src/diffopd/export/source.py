"""What is exported: a run's adapter with the settings it was trained with, or an adapter by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffopd.adapter import find_card
from diffopd.config.saved import CONFIG
from diffopd.config.trust import check_trust, load_saved
from diffopd.files.paths import expanded
from diffopd.run.finished import read_finished
from diffopd.run.trained import FINAL, adapter_of, adapter_of_run, is_checkpoint, run_of


@dataclass(frozen=True, kw_only=True)
class Source:
    """An adapter and what is known of it.

    Attributes:
        adapter: Where it lies.
        model: Config of the model it lies on.
        card: Its ``card.json``, if it has one.
        run: Folder of its run, if it is what a run ended with.
        settings: The config of its run; empty if it is of none.
        recipe: How the run was made and what it cost; empty if nothing says it.
    """

    adapter: str
    model: DictConfig
    card: Path | None
    run: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def read_source(cfg: DictConfig) -> Source:
    """The source that ``run`` or ``adapter_path`` names.

    Of a run, its ``config.yaml`` is read, and its adapter: what it exported when it ended, or that of its
    newest checkpoint. ``run`` may also name a checkpoint in the run's folder.

    Raises:
        ValueError: If neither or both are given, or the run's files are not there.
    """
    if (cfg.run is None) == (cfg.adapter_path is None):
        both = f"run={cfg.run} and adapter={cfg.adapter_path}" if cfg.run else "neither run nor adapter"
        raise ValueError(
            f"{both} given; give one: run=<folder of a finished run>, or adapter=<folder or file>"
        )
    if cfg.run is None:
        for key in ("path", "dtype"):
            if (value := cfg[f"model_{key}"]) is not None:
                raise ValueError(
                    f"model_{key}={value} is for run=...; with adapter=... set model.{key}={value}"
                )
        path = adapter_of(cfg.adapter_path, setting="adapter")
        return Source(adapter=path, model=cfg.model, card=find_card(path))
    named = expanded(cfg.run)
    run = run_of(named) if is_checkpoint(named) else named
    if not (run / CONFIG).is_file():
        raise ValueError(f"run={cfg.run}: {run.absolute()} holds no {CONFIG}; give the folder of a run")
    settings = load_saved(run / CONFIG, setting=f"run={cfg.run}")
    # The model alone is built of it.
    check_trust(
        settings, run / CONFIG, setting=f"run={cfg.run}", trusted=bool(cfg.trust_config), part="model"
    )
    if "model" not in settings:
        raise ValueError(
            f"run={cfg.run} trained a whole pipeline, not an adapter; it is in its pipeline folder"
        )
    of_run = named == run
    adapter = Path(adapter_of_run(run, f"run={cfg.run}") if of_run else adapter_of(named, setting="run"))
    model = cast(DictConfig, settings.model)
    changes = {"path": cfg.model_path, "dtype": cfg.model_dtype}
    changed = {key: value for key, value in changes.items() if value is not None}
    changed |= {"prompt_cache": None}  # a single prompt is encoded, maybe where the run's folder is not
    model = cast(DictConfig, OmegaConf.merge(model, changed))
    final = adapter == run / FINAL  # recipe, scores and pictures are of the whole training
    finished = read_finished(run) if final else None
    return Source(
        adapter=str(adapter),
        model=model,
        card=find_card(adapter),
        run=run if final else None,
        settings=cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True)),
        recipe={} if finished is None else finished.recipe,
    )
