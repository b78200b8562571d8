"""A command called from Python: its config without a command line, its errors raised instead of told."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from diffopd.check import COMPOSITION_ERRORS, ConfigError, check_config, explain_composition
from diffopd.command.ending import EndedFromOutsideError, no_end_from_outside
from diffopd.command.program import STOPPED, as_typed
from diffopd.config.arguments import own_folders, with_text_quoted
from diffopd.config.folder import config_folder
from diffopd.config.sweep import register_given
from diffopd.host.quiet import silence_known_noise
from diffopd.host.signals import INTERRUPTED, Ended

OF_HYDRA = "${hydra:runtime.output_dir}"
"""The run's folder on the command line, where Hydra makes it."""
OF_SETTINGS = "${absolute:${given:paths.root}/${name}/${run_id}}"
"""The same folder from the same settings, without Hydra; it follows when one of them is changed."""

_composed: dict[str, tuple[str, ...]] = {}
"""Hash of a config -> the command line that makes the same one."""


class StoppedError(RuntimeError):
    """A call ended before it was done, by no fault of its config: the same call resumes it."""


def compose_command(
    config_name: str,
    overrides: Sequence[str],
    *,
    arguments: Callable[[Sequence[str]], list[str]] = list,
    short: Mapping[str, str] | None = None,
    config_dir: str | os.PathLike[str] | None = None,
) -> DictConfig:
    """The config that a command would get.

    Args:
        config_name: The primary config in ``conf/``, without its ending.
        overrides: As on the command line.
        arguments: Turns them into what Hydra reads.
        short: What users write for a setting -> its name in the config.
        config_dir: A folder with configs of the user's own, as ``--config-dir``.

    Raises:
        ConfigError: If it cannot be composed.
    """
    silence_known_noise()  # some settings are computed from weights, which brings the libraries
    register_given()
    OmegaConf.register_new_resolver("absolute", os.path.abspath, replace=True)
    typed = tuple(map(str, overrides))
    own = [] if config_dir is None else own_folders(["--config-dir", str(config_dir)])
    with _own_hydra():
        try:
            given = with_text_quoted(arguments(typed))
            with initialize_config_dir(config_folder(), version_base="1.3"):
                cfg = hydra.compose(config_name, overrides=[*given, *own])
        except ConfigError:
            raise
        except COMPOSITION_ERRORS as error:
            written = [*(argument for argument in typed if "=" in argument), *own]
            raise ConfigError(as_typed(explain_composition(error, config_name, written), short)) from error
    if OmegaConf.to_container(cfg.paths, resolve=False)["run"] == OF_HYDRA:  # type: ignore[index]
        cfg.paths.run = OF_SETTINGS
    folder = () if config_dir is None else ("--config-dir", str(config_dir))
    _composed[_hash(cfg)] = (*folder, *typed)
    return cfg


def equivalent_arguments(cfg: DictConfig) -> tuple[str, ...]:
    """What to type after ``diffopd train`` for a config.

    One that was changed after it was composed is named by the folder in which the run saves it.
    """
    return _composed.get(_hash(cfg)) or (f"from={cfg.paths.run}",)


def _hash(cfg: DictConfig) -> str:
    return hashlib.sha256(OmegaConf.to_yaml(cfg).encode()).hexdigest()


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """A Hydra of our own inside, where the caller may be a Hydra program itself."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def call_command(
    run: Callable[[DictConfig], object],
    cfg: DictConfig,
    config_name: str,
    *,
    short: Mapping[str, str] | None = None,
) -> None:
    """Check a config and run a command on it, as the command line does.

    Args:
        run: What the command does once its config is checked.
        cfg: The composed config.
        config_name: The primary config it was composed from.
        short: What users write for a setting -> its name in the config; messages use what was written.

    Raises:
        ConfigError: If the config is not allowed.
        StoppedError: If the command was asked to end, or one of its processes failed.
    """
    silence_known_noise()
    try:
        with no_end_from_outside(STOPPED):
            check_config(cfg, config_name, _composed.get(_hash(cfg), ()))
            run(cfg)
    except ConfigError as error:
        raise ConfigError(as_typed(str(error), short)) from error
    except EndedFromOutsideError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # in a notebook or a shell: the caller's
            raise error.__cause__ from None
        raise
    except Ended as end:
        if end.code == INTERRUPTED:
            raise StoppedError("asked to end before it was done; the same call resumes it") from end
        raise StoppedError(f"a process ended with exit code {end.code}; its message is on stderr") from end
