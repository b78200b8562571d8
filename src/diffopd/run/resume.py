"""Whether a run is resumed from its folder, starts from scratch, or is already finished."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffopd.checkpoint import latest_valid_checkpoint, read_inputs, read_settings, round_of
from diffopd.checkpoint.folder import list_checkpoints
from diffopd.checkpoint.keeping import copy_checkpoint, is_damaged
from diffopd.checkpoint.place import DEFAULT, checkpoints_folder, earlier_folder, saving_callback
from diffopd.config.saved import CONFIG, read_config, write_config
from diffopd.files.sealed import DamagedFileError
from diffopd.run.finished import FINISHED, lost_output, read_finished
from diffopd.run.metrics_csv import METRICS, read_intact_rows
from diffopd.run.settings import check_same

log = logging.getLogger(__name__)

MODES = ("auto", "never")
_KEPT_ASIDE = (
    DEFAULT,
    METRICS,
    "metrics.damaged.csv",
    "tensorboard",
    "adapter",
    "lora",
    "samples",
    "context_probe.json",
    "leak_test.json",
    "report",
    "pipeline",
    "gradient_variance.json",
    "gradient_variance.md",
    "gradient_variance.png",
    "non_finite",
    "failed_reward",
    CONFIG,
    FINISHED,
)


def find_checkpoint(cfg: DictConfig, folder: Path) -> Path | None:
    """The checkpoint to resume from, if any; then save the config of this run.

    With ``resume=auto`` the newest valid checkpoint is used, if it was made with the same settings. It is
    looked for where ``callbacks.round_checkpoint`` saves, and where the config in the folder says that it
    saved before: from there it is copied. With ``resume=never`` what is there of a run is moved to
    ``previous_1``, ``previous_2``, ...

    Args:
        cfg: The composed config.
        folder: The run's folder.

    Raises:
        ValueError: If the folder holds a run whose settings differ in what affects the result, one with more
            rounds than are asked for, or one whose checkpoints are gone.
    """
    if cfg.resume not in MODES:
        raise ValueError(f"resume={cfg.resume} is not known; choose auto or never")
    places = _checkpoint_folders(cfg, folder)
    checkpoint = None
    if cfg.resume == "never":
        _keep_run_aside(folder, places)
    else:
        found = [path for path in map(latest_valid_checkpoint, places) if path is not None]
        checkpoint = max(found, key=round_of, default=None)
        if checkpoint is None:
            _check_nothing_is_lost(cfg, folder, places)
        else:
            check_same(cfg, folder, read_inputs(checkpoint), read_settings(checkpoint))
            _check_rounds(cfg, folder, round_of(checkpoint))
            log.info("resuming from %s", checkpoint)
            if checkpoint.parent != places[0]:  # the next start looks where this one saves
                checkpoint = copy_checkpoint(checkpoint, places[0])
    folder.mkdir(parents=True, exist_ok=True)
    write_config(cfg, folder)
    return checkpoint


def _checkpoint_folders(cfg: DictConfig, folder: Path) -> list[Path]:
    """Where checkpoints of the run may be: where it saves now, and where it saved before."""
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    places = [checkpoints_folder(now, folder)]
    if saved := _saved(folder):
        places.append(earlier_folder(saved, folder))
    return list({os.path.abspath(place): place for place in places}.values())


def _saved(folder: Path) -> Mapping[str, Any]:
    """The config in a run's folder; empty where none can be read, which is told where it is compared."""
    try:
        saved: Any = OmegaConf.to_container(read_config(folder / CONFIG), resolve=True)
    except (OSError, DamagedFileError, OmegaConfBaseException):
        return {}
    return saved


def _check_nothing_is_lost(cfg: DictConfig, folder: Path, places: Sequence[Path]) -> None:
    """Let a run without a checkpoint start from scratch only if that loses nothing.

    Raises:
        ValueError: If the folder holds what a checkpoint must have been there for.
    """
    there = [path for place in places for path in list_checkpoints(place)]
    kept = [path for path in there if not is_damaged(path)]
    finished = read_finished(folder)
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    every = [
        node["every_n_rounds"] for node in map(saving_callback, (now, _saved(folder))) if node is not None
    ]
    num_rounds = len(read_intact_rows(folder / METRICS)[0])
    if finished is not None:
        what = f"a run that is finished, with {finished.rounds} rounds,"
    elif kept:
        what = f"a run whose checkpoint {kept[-1]} cannot be read, see the warning above,"
    elif not there and any((folder / name).is_dir() for name in ("adapter", "pipeline")):
        what = "a run that has exported its result"
    elif not there and every and num_rounds > max(every):
        what = f"a run with {num_rounds} rounds in {METRICS}"
    else:
        if there:
            log.warning("every checkpoint of the run in %s is damaged: the run starts from scratch", folder)
            _keep_run_aside(folder, places)
        elif (folder / CONFIG).is_file() and not _saved(folder):
            log.warning("%s is damaged and is written again; there is no checkpoint yet", folder / CONFIG)
        return
    with contextlib.suppress(DamagedFileError):  # settings that differ are the better reason
        check_same(cfg, folder, {} if finished is None else finished.inputs)
    raise ValueError(
        f"{folder} holds {what} and no checkpoint to resume from (looked in "
        f"{' and '.join(map(str, places))}). What it trained can still be used: if_finished=skip leaves a "
        f"finished run as it is, and python -m diffopd.evaluate adapter={folder / 'adapter'} scores it. To "
        "train, say where the checkpoints are with callbacks.round_checkpoint.folder=..., give this run its "
        "own folder with run_id=..., or start over with resume=never (the old files are kept in previous_<n>)"
    )


def _check_rounds(cfg: DictConfig, folder: Path, done: int) -> None:
    """Let a run not ask for fewer rounds than it has.

    Raises:
        ValueError: If it does.
    """
    if cfg.trainer.max_epochs < done:
        raise ValueError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}, and the run in {folder} has {done} rounds, which "
            f"cannot be undone; set trainer.max_epochs={done} or more, give this run its own folder with "
            "run_id=..., or start over with resume=never (the old files are kept in previous_<n>)"
        )


def is_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether a folder holds the run of this config, trained and reported, with the weights that it left.

    Raises:
        ValueError: If the folder holds a run whose settings differ in what affects the result.
    """
    noted = None if cfg.resume == "never" else read_finished(folder)
    if noted is None:
        return False
    try:
        check_same(cfg, folder, noted.inputs)
    except DamagedFileError:  # a checkpoint may know the settings
        return False
    if lost := lost_output(folder, noted):
        log.warning("%s; the run counts as unfinished and resumes from its newest checkpoint", lost)
        return False
    return noted.max_rounds == cfg.trainer.max_epochs


def _keep_run_aside(folder: Path, places: Sequence[Path]) -> None:
    """Move a run's files, and its checkpoints where these are, to ``previous_1``, ... beside them."""
    if any(
        os.path.lexists(folder / name) for name in _KEPT_ASIDE if name != CONFIG
    ):  # a config alone is no run
        keep_aside(folder)
    for place in places:
        if os.path.abspath(place) != os.path.abspath(folder / DEFAULT):
            if found := [path.name for path in list_checkpoints(place)]:
                keep_aside(place, found)


def keep_aside(folder: Path, names: Sequence[str] = _KEPT_ASIDE) -> None:
    """Move what a folder holds of a run to ``previous_1``, ``previous_2``, ... within it.

    Args:
        folder: The run's folder.
        names: Files and folders to move; those that are not there are passed over.
    """
    numbers = [path.name.removeprefix("previous_") for path in folder.glob("previous_*")]
    number = 1 + max((int(text) for text in numbers if re.fullmatch("[0-9]+", text)), default=0)
    aside = folder / f"previous_{number}"
    aside.mkdir()
    for name in names:
        if os.path.lexists(folder / name):
            (folder / name).rename(aside / name)
    log.info("the run that was in %s is kept in %s", folder, aside)
