"""The config that a run saves in its folder, and the repetition of a run from it (``from=<run folder>``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffopd.config.folder import config_folder
from diffopd.config.trust import as_now, read_saved
from diffopd.files.names import CONFIG
from diffopd.files.paths import expanded
from diffopd.files.sealed import DamagedFileError, read_sealed_text, write_sealed_text

FROM = "from="
TRUST = "trust_config="
PRIMARY = "train_from"


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Save a composed config, resolved, in a folder: whole or not at all, and only if it differs."""
    write_sealed_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def read_config(file: Path) -> DictConfig:
    """A config that a run saved.

    Args:
        file: ``config.yaml`` in the run's folder.

    Raises:
        DamagedFileError: If it is not what was written, or no config.
        OSError: If it cannot be read.
    """
    try:
        found = as_now(OmegaConf.create(read_sealed_text(file)))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, AssertionError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(file, f"not YAML ({error})") from error
    if not isinstance(found, DictConfig) or not found:
        raise DamagedFileError(file, "it is not a mapping of settings")
    return found


def from_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments for Hydra, with ``from=<run folder>`` turned into a primary config made of the saved one.

    Everything is as it was saved, except where things are written: that follows from ``paths``, ``name`` and
    ``run_id`` as usual.

    Args:
        arguments: As on the command line. ``trust_config=true`` lets the saved config name any code.

    Raises:
        ValueError: If the run's folder holds no config, or one that names foreign code.
    """
    given = [argument for argument in arguments if argument.startswith(FROM)]
    if not given:
        return list(arguments)
    run = expanded(given[-1].removeprefix(FROM))
    file, setting = (run if run.is_file() else run / CONFIG), f"from={run}"
    trust = [argument for argument in arguments if argument.startswith(TRUST)]
    cfg = read_saved(file, setting=setting, trusted=_is_true(trust[-1]) if trust else False)
    saved: Any = OmegaConf.to_container(cfg)
    if not isinstance(saved.get("paths"), dict):
        raise ValueError(f"{setting}: {file} is not the config of a run")
    primary = {
        "defaults": ["_self_", {"hydra": "default"}, {"override hydra/help": "command"}],
        "hydra": yaml.safe_load((Path(config_folder()) / "train.yaml").read_text(encoding="utf-8"))["hydra"],
        **_moved(saved, str(saved["paths"].get("run")), "${paths.run}"),
    }
    primary["paths"] |= {"run": "${hydra:runtime.output_dir}", "checkpoints": "${.run}/checkpoints"}
    ConfigStore.instance().store(PRIMARY, primary)
    others = [argument for argument in arguments if argument not in (*given, *trust)]
    return ["--config-name", PRIMARY, *others]


def _is_true(argument: str) -> bool:
    value = argument.removeprefix(TRUST).lower()
    if value not in ("true", "false"):
        raise ValueError(f"{argument} must be true or false")
    return value == "true"


def _moved(node: Any, old: str, new: str) -> Any:
    """The node with every path in the old run's folder in the new one's."""
    if isinstance(node, Mapping):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node.removeprefix(old)
    return node
