"""The folder of an evaluation: its settings, whether it is finished, and what it can be resumed from."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.utils import get_class
from omegaconf import DictConfig

from diffopd.adapter import find_place
from diffopd.config.saved import CONFIG, write_config
from diffopd.evaluate.settings import differences, evaluated_settings
from diffopd.evaluation import EvaluationResult
from diffopd.evaluation.records import FolderRecords
from diffopd.files.fingerprint import sha256_of
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json
from diffopd.model import PipelineModel
from diffopd.run.resume import MODES, keep_aside
from diffopd.types import Prompts

log = logging.getLogger(__name__)

MADE_FROM = "made_from.json"
"""What an evaluation's images are made from: settings, and fingerprints of prompts and weights."""
_ENTRY = "made_from"
_CONTENTS = ("model.path", "model.revision")
"""Where weights are; what they are is compared."""


@dataclass(frozen=True)
class EvaluationFolder:
    """Where an evaluation's files are.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def results(self) -> Path:
        """The scores; there when the evaluation is finished, and not before."""
        return self.path / "results.json"

    @property
    def sheet(self) -> Path:
        """The first images of each task on one sheet."""
        return self.path / "images.png"

    @property
    def images(self) -> Path:
        """Every image, where these are wanted."""
        return self.path / "images"

    @property
    def progress(self) -> Path:
        """What is needed to resume; removed when the evaluation is finished."""
        return self.path / "progress"

    @property
    def records(self) -> FolderRecords:
        """Of the images made so far."""
        return FolderRecords(self.progress / "records")

    def remove_progress(self) -> None:
        """Remove what is not needed once there are results."""
        shutil.rmtree(self.progress, ignore_errors=True)

    def open(self, cfg: DictConfig, made_from: Mapping[str, Any]) -> bool:
        """Prepare the folder for an evaluation, or for resuming it.

        With ``resume=auto`` an evaluation of the same settings and weights that is in the folder is resumed
        with. With ``resume=never`` what the folder holds is moved to ``previous_1``, ``previous_2``, ...

        Args:
            cfg: The composed config.
            made_from: By :func:`made_from`.

        Returns:
            Whether the evaluation in the folder is finished.

        Raises:
            ValueError: If the folder holds an evaluation of something else.
        """
        if cfg.resume not in MODES:
            raise ValueError(f"resume={cfg.resume} is not known; choose auto or never")
        note, files = self.path / MADE_FROM, (self.results, self.sheet, self.images, self.progress)
        there = [path.name for path in (note, *files, self.path / CONFIG) if path.exists()]
        before = _read_note(note)
        known = before is not None
        if there and (cfg.resume == "never" or not known):  # without a note nobody knows what it is of
            keep_aside(self.path, there)
            known = False
        if before is not None and known:
            if changed := differences(before, json.loads(json.dumps(made_from))):
                raise ValueError(
                    f"{self.path} holds an evaluation of something else:\n"
                    + "\n".join(changed)
                    + "\nGive this one its own folder with run_id=..., or start over with resume=never (the "
                    "old files are kept in previous_<n>)"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        write_config(cfg, self.path)
        if not known:
            write_sealed_json(note, {_ENTRY: made_from})
        return self._is_finished()

    def _is_finished(self) -> bool:
        """Whether the results are there; damaged ones are made again."""
        if not self.results.is_file():
            return False
        try:
            EvaluationResult.load(self.results)
        except DamagedFileError as error:
            log.warning("%s; it is made again", error)
            self.results.unlink()
            return False
        return True


def _read_note(note: Path) -> dict[str, Any] | None:
    """What an evaluation was made from; None if nothing says it."""
    if not note.is_file():
        return None
    try:
        value = read_sealed_json(note, json.loads(note.read_bytes()))  # earlier versions had no checksum
    except (DamagedFileError, ValueError, TypeError) as error:
        log.warning("%s: %s", note, error)
        return None
    return value.get(_ENTRY, value)


def made_from(cfg: DictConfig, prompts: Mapping[str, Prompts]) -> dict[str, Any]:
    """What an evaluation's results come from: settings, prompts, adapter and base model.

    Weights and prompts count by what is in their files, not by where these are.

    Args:
        cfg: The composed config.
        prompts: The benchmark's.

    Raises:
        ValueError: If the model or the adapter cannot be found.
    """
    found = {path: value for path, value in evaluated_settings(cfg).items() if path not in _CONTENTS}
    for task, rows in prompts.items():
        pictures = [picture.digest for picture in rows.targets if picture is not None]
        told = [rows.texts, [dict(line) for line in rows.metadata], rows.groups]
        lines = json.dumps([*told, pictures] if pictures else told, sort_keys=True)
        found[f"(prompts of {task})"] = hashlib.sha256(lines.encode()).hexdigest()
    if cfg.adapter_path is not None:
        place = find_place(cfg.adapter_path, setting="adapter")
        found["(weights of the adapter)"] = [sha256_of(file) for file in place.weights]
    model = cast(type[PipelineModel], get_class(cfg.model._target_))
    identity = model.identity_at(cfg.model.path, cfg.model.revision, cfg.model.text_length)
    return found | {"(base model)": identity}
