"""Paths and overrides, as functions of this package take them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from diffopd.check import ConfigError

Place = str | os.PathLike[str]
"""A path; where weights are meant also ``package://...`` or ``owner/name`` on the hub."""


def listed(overrides: object) -> list[str]:
    """Overrides as a list; a single text would be read letter by letter, and a mapping has its keys alone.

    Raises:
        ConfigError: If they are no list of texts.
    """
    if isinstance(overrides, (str, bytes, Mapping)) or not isinstance(overrides, Iterable):
        raise ConfigError(
            f'overrides={overrides!r} must be a list of texts, as in ["trainer.max_epochs=2", "seed=1"]'
        )
    return [str(override) for override in overrides]
