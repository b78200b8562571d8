"""Which settings make a run what it is, and whether two configs ask for the same run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.config.added import ADDED
from diffopd.config.folder import flat_settings
from diffopd.config.harmless import RUN, is_harmless
from diffopd.config.saved import CONFIG, read_config
from diffopd.files.sealed import DamagedFileError
from diffopd.run.inputs import fingerprint

log = logging.getLogger(__name__)

_SCHEDULED = "phase.warmup_steps"
"""A phase with this setting has a learning rate that falls to 0 in the last round, so their number counts."""
_SCHEDULE = "phase.lr_schedule"
"""So has one where this is not constant."""

_REPEATED = ("model.lora_modules",)
"""Settings that act through another one, which is compared."""


def check_same(
    cfg: DictConfig, folder: Path, inputs: Mapping[str, str], settings: Mapping[str, Any] | None = None
) -> None:
    """Compare a config with that of the run in a folder, and its files with those the run learned from.

    Args:
        cfg: The composed config.
        folder: The run's folder; one without a config is not compared.
        inputs: Fingerprints by config path. A path whose files are the same may have changed.
        settings: What a checkpoint of the run says of its config. The config in the folder counts where this
            says nothing.

    Raises:
        DamagedFileError: If the config in the folder is damaged and there are no other settings.
        ValueError: If something differs that affects the result, with all that does.
    """
    before, now = _settings_before(folder, settings), result_settings(cfg)
    if before is None:
        return
    before = {key: value for key, value in ADDED.items() if key in now} | before
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    values = OmegaConf.to_container(cfg, resolve=True)
    found = {setting: fingerprint(values, setting) for setting in inputs}  # type: ignore[arg-type]
    moved = [setting for setting in changed if setting in inputs and found[setting] == inputs[setting]]
    lines = [
        f"  {key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        + (", which has other files" if key in inputs else "")
        for key in changed
        if key not in moved
    ]
    lines += [
        f"  {setting}={now.get(setting)}: the files have changed (SHA-256 {value[:12]}, now "
        f"{(found[setting] or 'nothing')[:12]})"
        for setting, value in sorted(inputs.items())
        if setting not in changed and found[setting] != value
    ]
    if lines:
        raise ValueError(
            f"{folder} holds a run with other settings:\n"
            + "\n".join(lines)
            + "\nGive this run its own folder with run_id=..., or start over with resume=never (the old "
            "files are kept in previous_<n>)"
        )


def _settings_before(folder: Path, settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What affected the result of the run in a folder; None if nothing says it."""
    known = {} if settings is None else _counted(settings)
    file = folder / CONFIG
    if not file.is_file():
        return None if settings is None else known
    try:
        return result_settings(read_config(file)) | known
    except DamagedFileError as error:
        if settings is None:
            raise DamagedFileError(
                file,
                f"{error.why}. The settings of the run cannot be compared: remove the file to resume without "
                "this check, or start over with resume=never (the old files are kept in previous_<n>)",
            ) from error
        log.warning("%s; it is written again, and the settings are compared with the checkpoint's", error)
        return known


def result_settings(cfg: DictConfig) -> dict[str, Any]:
    """What affects the result, flat: config path -> value."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return _counted(dict(flat_settings(plain)))


def _counted(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Of flat settings those that affect the result."""
    scheduled = _SCHEDULED in flat or flat.get(_SCHEDULE, "constant") != "constant"
    return {
        path: value
        for path, value in flat.items()
        if path not in _REPEATED
        and (not is_harmless(path, RUN) or (scheduled and path == "trainer.max_epochs"))
    }
