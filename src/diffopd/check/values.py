"""A config as plain values, with the places that have none marked rather than raised."""

from __future__ import annotations

from typing import Any, Final

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from diffopd.check.error import ConfigError


class _Mark:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


UNSET: Final = _Mark("???")
"""A required value that nobody gave."""
UNKNOWN: Final = _Mark("unknown")
"""A value that only a run can know, such as the run's folder, or that hangs on a value nobody gave."""


def plain_values(node: DictConfig | ListConfig) -> Any:
    """The node with every reference resolved; :data:`UNSET` and :data:`UNKNOWN` where there is no value.

    Raises:
        ConfigError: If a reference leads nowhere.
    """
    if node._is_none() or node._is_missing():
        return None if node._is_none() else UNSET
    if isinstance(node, ListConfig):
        return [_value(node, place) for place in range(len(node))]
    return {str(key): _value(node, key) for key in node}


def _value(node: DictConfig | ListConfig, key: Any) -> Any:
    if OmegaConf.is_missing(node, key):
        return UNSET
    try:
        value = node[key]
    except InterpolationToMissingValueError:
        return UNKNOWN
    except OmegaConfBaseException as error:
        if "HydraConfig was not set" in str(error):  # composed outside a run
            return UNKNOWN
        place = f"{node._get_full_key(None)}.{key}".lstrip(".")
        written: Any = OmegaConf.to_container(node, resolve=False)
        raise ConfigError(f"{place}={written[key]} leads nowhere; check the name it refers to") from error
    return plain_values(value) if isinstance(value, (DictConfig, ListConfig)) else value
