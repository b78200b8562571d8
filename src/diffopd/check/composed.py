"""Check what another command of this package would be given, before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig

from diffopd.check.config import check_config
from diffopd.check.error import ConfigError
from diffopd.check.override import COMPOSITION_ERRORS, explain_composition
from diffopd.config.arguments import quoted


def check_composed(config_name: str, overrides: Sequence[str], folder: Path, *, setting: str) -> DictConfig:
    """Compose and check a command's config, inside another command.

    Args:
        config_name: The command's primary config, e.g. ``train``.
        overrides: What it would be called with.
        folder: The folder it would run in.
        setting: Where these are named in the config at hand, for messages.

    Returns:
        The composed config.

    Raises:
        ConfigError: If the config of the command has an error.
    """
    try:
        cfg = compose(config_name, overrides=[*overrides, f"paths.run={quoted(str(folder))}"])
        check_config(cfg, config_name, overrides)
        return cfg
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error
    except COMPOSITION_ERRORS as error:
        explained = explain_composition(error, config_name, overrides)
        raise ConfigError(f"{setting}: {explained}") from error
