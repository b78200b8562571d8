"""Hydra's own sweeper with short folder names, and an error where a sweep has no job or two jobs one folder.

Hydra takes sweepers that are defined in this namespace alone, and loads its own once more when it does:
what derives from it must be defined here, at that moment.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from diffopd.check import ConfigError
from diffopd.config.sweep import VARIED, named_elsewhere, setting_name

log = logging.getLogger(__name__)


class NamedSweeper(BasicSweeper):
    """Hydra's own sweeper, with folders that are named after what the sweep varies alone.

    The whole of a job's settings is in the ``config.yaml`` and ``.hydra/`` of its folder.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size, params)
        self._varied: tuple[str, ...] = ()
        self._folders: dict[str, Sequence[str]] = {}

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job.

        Raises:
            ConfigError: If there is none, or the sweep's own folder has no name.
        """
        try:
            str(self._config.hydra.sweep.dir)
        except InterpolationToMissingValueError as error:
            raise ConfigError(
                "a sweep over experiments needs a name for the folder of all its runs; give it as name=..."
            ) from error
        return super().sweep(arguments)

    def split_arguments(  # type: ignore[override]  # static there; it is called on the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The jobs' overrides, each with the name of its folder."""
        last = {override.get_key_element(): override for override in overrides}
        swept = [key for key, override in last.items() if override.is_sweep_override()]
        for key in swept:
            if last[key].is_discrete_sweep() and not list(last[key].sweep_string_iterator()):
                raise ConfigError(
                    f"{last[key].input_line} comes to no value, so the sweep has no job; give at least one"
                )
        self._varied = tuple(key for key in swept if key not in named_elsewhere(last))
        batches = super().split_arguments(overrides, max_batch_size)
        return [[[*job, *self._folder_of(job)] for job in batch] for batch in batches]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every job before the first runs.

        Raises:
            ConfigError: If two jobs of different settings would write to one folder.
        """
        assert self.hydra_context is not None
        for job in batch:
            cfg = self.hydra_context.config_loader.load_sweep_config(self._config, list(job))
            self._warn_of_launcher(cfg, job)
            try:
                folder = f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}"
            except OmegaConfBaseException:  # what only a run can know, such as its number, is in the name
                continue
            settings = [setting for setting in job if not setting.startswith("hydra.")]
            other = self._folders.setdefault(folder, settings)
            if other != settings:
                differing = [one for one in settings if one not in other]
                raise ConfigError(
                    f"two settings of the sweep would share the folder {folder}: {', '.join(differing)} and "
                    f"{', '.join(one for one in other if one not in settings)}; leave hydra.sweep.subdir, "
                    "name and run_id to the sweep, or put what it varies into them"
                )

    @property
    def _config(self) -> DictConfig:
        assert self.config is not None
        return self.config

    def _folder_of(self, job: Sequence[str]) -> list[str]:
        raw = cast(Any, OmegaConf.to_container(self._config.hydra.sweep, resolve=False))
        pairs = [setting.partition("=") for setting in job]
        name = setting_name({key: value for key, _, value in pairs if key in self._varied})
        subdir = str(raw["subdir"])
        # The rest of it keeps its references, such as that to the seed.
        return [f"hydra.sweep.subdir='{subdir.replace(VARIED, name)}'"] if VARIED in subdir else []

    def _warn_of_launcher(self, cfg: DictConfig, job: Sequence[str]) -> None:
        """Hydra takes the launcher before it looks into an experiment that is itself swept."""
        named, taken = (config.hydra.launcher.get("_target_") for config in (cfg, self._config))
        if named != taken:
            log.warning(
                "%s names the launcher %s, which a sweep over experiments ignores; give it on the command "
                "line, as hydra/launcher=...",
                next((setting for setting in job if "experiment" in setting), "a swept setting"),
                named,
            )
