"""The adapter that a setting names by a checkpoint or a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffopd.adapter.location import TRANSFORMER
from diffopd.checkpoint import ADAPTER, CheckpointError, latest_valid_checkpoint, verify_checkpoint
from diffopd.checkpoint.folder import MANIFEST, STATE
from diffopd.checkpoint.place import DEFAULT, earlier_folder
from diffopd.checkpoint.tensor_files import INDEX, TENSORS
from diffopd.config.saved import CONFIG, read_config
from diffopd.files.names import ADAPTER_CONFIG, MODEL_CONFIG
from diffopd.files.paths import resolve_path
from diffopd.files.sealed import DamagedFileError
from diffopd.run.finished import read_finished

log = logging.getLogger(__name__)

FINAL = "adapter"
"""Folder within a run's of what it exports when it ends."""


def adapter_of(path: str | Path, *, setting: str) -> str:
    """The adapter that ``path`` names: its own path, or where that of a checkpoint or a run lies.

    Of a run that is finished, the adapter it exported is meant. Of one that is not, the adapter of its newest
    intact checkpoint, and without one what it exported.

    Args:
        path: Folder of a checkpoint or of a run; anything else is returned as it is.
        setting: Where the config names it, for messages.

    Raises:
        ValueError: If the checkpoint is damaged, there is no adapter in the checkpoint or the run, or the
            folder holds runs.
    """
    folder, where = Path(resolve_path(path)), f"{setting}={path}"
    if is_checkpoint(folder):
        return str(_of_checkpoint(folder, where))
    if is_run(folder):
        return adapter_of_run(folder, where)
    runs = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}") if is_run(file.parent))
    if runs and not _has_weights(folder):
        raise ValueError(
            f"{where} holds runs; name one of them: {', '.join(f'{path}/{run}' for run in runs)}"
        )
    return str(path)


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint lies in; the checkpoint itself if it lies in none."""
    above = list(checkpoint.absolute().parents)[:2]
    found = (folder for folder in above if (folder / CONFIG).is_file())
    return next(found, checkpoint)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint, damaged or not."""
    return sum((folder / name).is_file() for name in (TENSORS, INDEX, STATE, MANIFEST)) > 1


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training, and not an adapter's or a transformer's."""
    return (folder / CONFIG).is_file() and not _has_weights(folder)


def _has_weights(folder: Path) -> bool:
    files = (file.name for file in folder.glob("*.safetensors"))
    weights = [ADAPTER_CONFIG, MODEL_CONFIG, TRANSFORMER, *files]
    return any((folder / name).exists() for name in weights)


def _of_checkpoint(folder: Path, where: str) -> Path:
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        raise ValueError(f"{where}: {error}") from error
    if not _has_adapter(folder):
        raise ValueError(
            f"{where} is a checkpoint without an adapter: its run was of an earlier version, or without "
            "callbacks.adapter_export, or trains no adapter. Repeat the run's command: it resumes, and its "
            "next checkpoint has one. If this is the run's newest checkpoint, the command with "
            f"trainer.max_epochs={folder.name.removeprefix('round_').lstrip('0')} trains nothing and exports "
            "the adapter to the run's folder adapter"
        )
    return folder / ADAPTER


def adapter_of_run(run: Path, where: str) -> str:
    """The adapter that the folder of a run stands for, see :func:`adapter_of`.

    Args:
        run: The folder, which holds the run's config.
        where: The setting with its value, for messages.

    Raises:
        ValueError: If the run has no adapter.
    """
    return str(_of_run(run, where))


def _of_run(run: Path, where: str) -> Path:
    final = run / FINAL
    exported = final.is_dir()
    if exported and read_finished(run) is not None:
        return final
    places = _checkpoint_folders(run)
    newest = next((found for place in places if (found := latest_valid_checkpoint(place))), None)
    if newest is not None and _has_adapter(newest):
        log.info("%s is not finished; the adapter of its newest checkpoint is taken: %s", where, newest)
        return newest / ADAPTER
    if exported:
        return final
    if newest is not None:
        return _of_checkpoint(newest, f"{where}, whose newest checkpoint is {newest},")
    if (run / "pipeline").is_dir():
        raise ValueError(f"{where} trained a whole pipeline, no adapter; give model.path={run / 'pipeline'}")
    raise ValueError(
        f"{where} is the folder of a run that has neither an adapter nor a checkpoint yet (looked in {final} "
        f"and {' and '.join(map(str, places))}); train it until its first checkpoint, see "
        "callbacks.round_checkpoint.every_n_rounds"
    )


def _has_adapter(checkpoint: Path) -> bool:
    return any((checkpoint / ADAPTER / name).is_file() for name in (ADAPTER_CONFIG, MODEL_CONFIG))


def _checkpoint_folders(run: Path) -> list[Path]:
    """Where the run's config says that its checkpoints are, and where they are by default."""
    places = [run / DEFAULT]
    try:
        saved: Any = OmegaConf.to_container(read_config(run / CONFIG), resolve=True)
        places.insert(0, earlier_folder(saved, run))
    except (OSError, DamagedFileError, OmegaConfBaseException) as error:
        log.warning("%s; its checkpoints are looked for in %s", error, run / DEFAULT)
    return list(dict.fromkeys(places))
