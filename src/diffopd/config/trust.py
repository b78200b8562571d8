"""Whose code a saved config may name: that of this package, unless the user trusts whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffopd.config.folder import config_folder
from diffopd.config.renamed import with_current_names
from diffopd.files.sealed import read_sealed_text

_OF_LIBRARIES = re.compile(
    r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w*"
    r"|lightning\.(pytorch\.)?Trainer"
    r"|lightning\.pytorch\.(loggers|callbacks)\.[A-Z]\w*"
)
"""Classes of libraries that a saved config may name; no path through a module to what that imports."""
_TOKEN = "token_variable"
"""Key by which a config chooses an environment variable that is sent to a server of its choice."""
_OF_HYDRA = ("defaults", "hydra")
"""Keys by which a config chooses other configs, launchers and callbacks; a run saves none."""


def read_saved(file: Path, *, setting: str, trusted: bool) -> DictConfig:
    """The config that a run has saved, unless building it could run code that this package does not bring.

    Args:
        file: The config.
        setting: What the user gave it by, for messages.
        trusted: Whether the user says that the config may name any code.

    Raises:
        ValueError: If it is no config, or if it names foreign code and is not trusted.
    """
    cfg = load_saved(file, setting=setting)
    check_trust(cfg, file, setting=setting, trusted=trusted)
    return cfg


def load_saved(file: Path, *, setting: str) -> DictConfig:
    """A saved config as it is, for reading and not for building.

    Raises:
        ValueError: If there is none, or it is no mapping.
    """
    if not file.is_file():
        raise ValueError(f"{setting}: there is no {file}; give the folder of a run")
    try:
        cfg = as_now(OmegaConf.create(read_sealed_text(file)))
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, AssertionError) as error:
        raise ValueError(f"{setting}: {file} cannot be read as a config ({error})") from error
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{setting}: {file} is not the config of a run")
    return cfg


def as_now(cfg: Any) -> Any:
    """A config with every ``_target_`` as it is called now; what is no mapping is returned as it is."""
    if not isinstance(cfg, DictConfig):
        return cfg
    return OmegaConf.create(with_current_names(OmegaConf.to_container(cfg)))


def check_trust(cfg: DictConfig, file: Path, *, setting: str, trusted: bool, part: str | None = None) -> None:
    """Compare what a saved config names with what this package offers.

    Args:
        cfg: The config.
        file: Where it lies, for messages.
        setting: What the user gave it by, for messages.
        trusted: Whether the user says that the config may name any code.
        part: The one node that will be built; None: all may be.

    Raises:
        ValueError: If it names other code, and is not trusted.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in _OF_HYDRA:
        if key in plain:
            raise ValueError(
                f"{setting}: {file} has the key {key}, which no run saves; remove it from the file"
            )
    if trusted:
        return
    foreign = [line for path, value in _values(plain) for line in _foreign(path, value, part)]
    if foreign:
        raise ValueError(
            f"{setting}: {file} names code that is not part of diffopd:\n"
            + "\n".join(f"  {line}" for line in foreign)
            + "\nBuilding this config would run that code. If you trust whoever wrote it, add "
            "trust_config=true"
        )


def _foreign(path: str, value: Any, part: str | None) -> Iterator[str]:
    """What is wrong with one value, if anything."""
    if isinstance(value, str) and "${" in value:
        # A run saves values, never references, and a resolver may read the environment or make a node.
        yield f"{path}={value}: a reference; a run saves values only"
    elif part is not None and not path.startswith(f"{part}."):
        return
    elif path.rpartition(".")[2] == "_target_":
        if not (isinstance(value, str) and (value in offered_targets() or _OF_LIBRARIES.fullmatch(value))):
            yield f"{path}={value}"
    elif path.rpartition(".")[2] == _TOKEN and value is not None and value not in _offered(_TOKEN):
        # The address that it is sent to is the config's, too.
        yield f"{path}={value}: an environment variable that would be sent; it is not one of those in conf/"


def offered_targets() -> frozenset[str]:
    """Every class and function that a file of ``conf/`` names, but for Hydra's own settings."""
    return _offered("_target_")


@cache
def _offered(key: str) -> frozenset[str]:
    """Every value that a file of ``conf/`` has for a key, but for Hydra's own settings.

    Read as lines, as parsing all files would take longer than the rest of the check.
    """
    named = re.compile(rf"^[^#\n]*?\b{key}: *([\w.]+)", re.MULTILINE)
    folder = Path(config_folder())
    files = (file for file in folder.rglob("*.yaml") if file.relative_to(folder).parts[0] != "hydra")
    return frozenset(name for file in files for name in named.findall(file.read_text(encoding="utf-8")))


def _values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Config path and value of every leaf; what a ``_target_`` holds is one, whatever it is."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            if key == "_target_" and not isinstance(value, str):
                yield place, value
            yield from _values(value, place)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _values(value, f"{path}.{number}")
    else:
        yield path, node
