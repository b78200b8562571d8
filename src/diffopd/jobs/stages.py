"""The stages of a cascade: their runs, and that each starts where the one before ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import check_composed
from diffopd.config.arguments import quoted
from diffopd.files.fingerprint import sha256_of
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json
from diffopd.jobs.launch import train_in

log = logging.getLogger(__name__)

START = "start.json"
"""Beside a stage's run: which adapter it started from."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of a cascade.

    Attributes:
        name: Its name.
        experiment: A choice of ``experiment``.
        overrides: What is changed in it.
        folder: The run's folder.
        anew: Whether to move the folder's contents aside and start over.
    """

    name: str
    experiment: str
    overrides: Sequence[str]
    folder: Path
    anew: bool

    @property
    def arguments(self) -> list[str]:
        """What ``diffopd.train`` is called with, apart from the adapter to start from."""
        return [f"+experiment={self.experiment}", *self.overrides]


def read_stages(cfg: DictConfig, folder: Path) -> list[Stage]:
    """The stages of a composed ``conf/cascade.yaml``, in order.

    Raises:
        ValueError: If there is none.
    """
    if not cfg.stages:
        raise ValueError("stages is empty, so there is nothing to train; choose some of conf/stages")
    shared = [f"seed={cfg.seed}", f"resume={cfg.resume}", *cfg.overrides]
    return [
        Stage(
            name=str(name),
            experiment=stage.experiment,
            overrides=[*shared, *stage.overrides],
            folder=folder / f"{number}_{name}",
            anew=cfg.resume == "never",
        )
        for number, (name, stage) in enumerate(cfg.stages.items(), 1)
    ]


def check_stage(stage: Stage) -> None:
    """Check the config of a stage before any stage is trained.

    Raises:
        ConfigError: With the stage's name.
    """
    check_composed("train", stage.arguments, stage.folder, setting=f"stages.{stage.name}")


def train_stage(stage: Stage, start: Path | None) -> bool:
    """Train one stage, or what is left of it.

    Args:
        stage: The stage.
        start: Adapter folder of the stage before; None for the first.

    Returns:
        Whether it is finished; False if it was asked to end.

    Raises:
        ValueError: If it started from another adapter than the one that the stage before has now.
    """
    arguments = stage.arguments
    if start is not None:
        _check_start(stage, start)
        arguments = [*arguments, f"adapter.start={quoted(str(start))}"]
    return train_in(stage.folder, arguments)


def _check_start(stage: Stage, start: Path) -> None:
    from diffopd.adapter import WEIGHTS  # brings diffusers, which the check of all stages does without

    now, note = {"sha256": sha256_of(start / WEIGHTS)}, stage.folder / START
    if not stage.anew and note.is_file() and _noted(note) not in (now, None):
        raise ValueError(
            f"stages.{stage.name} started in {stage.folder} from an adapter other than the one now in "
            f"{start}: an earlier stage has changed since. Give the cascade its own folder with run_id=..., "
            "or remove this stage's folder and those after it"
        )
    write_sealed_json(note, now)


def _noted(note: Path) -> dict[str, str] | None:
    """What a stage started from; None if the note is damaged."""
    try:
        return read_sealed_json(note, ("sha256",))
    except DamagedFileError as error:
        # The run in the folder knows the fingerprint of the adapter that it started from, too.
        log.warning("%s; it is written again", error)
        return None
