"""Hydra's work on a command line's choices is kept: composing is a third of what many tests would do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal import defaults_list as hydra_defaults
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf
from omegaconf import _utils as omegaconf_utils
from omegaconf import base as omegaconf_base
from omegaconf.grammar_parser import parse

from diffopd.config.folder import config_folder

OURS = Path(config_folder())
HYDRA = "hydra.conf"


class RememberedChoices:
    """Stands in for two steps of Hydra's composition, which depend on the choices of groups alone.

    Values (``optimizer.lr=1``) are set afterwards, by Hydra itself, on a fresh copy. Configs from any folder
    but this project's, or from the memory, are composed anew each time: those change. For new choices,
    each file of this project and of Hydra is read once, each reference (``${seed}``) is parsed once, and what
    Hydra makes for no reader is left out.
    """

    def __init__(self) -> None:
        self.create = config_loader_impl.create_defaults_list
        self.compose = ConfigLoaderImpl._compose_config_from_defaults_list
        self.load = ConfigRepository.load_config
        self.references = hydra_defaults._create_interpolation_map
        self.copied = CachingConfigRepository.__init__
        self.lists: dict[tuple[Any, ...], bytes] = {}
        self.configs: dict[tuple[Any, ...], bytes] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.trees: dict[str, Any] = {}
        self.latest: tuple[Any, tuple[Any, ...]] | None = None

    def defaults_list(
        self,
        repo: Any,
        config_name: Any,
        overrides_list: Sequence[Any],
        prepend_hydra: bool,
        skip_missing: bool,
    ) -> Any:
        """As ``create_defaults_list``."""
        self.latest = None
        places = [source.path for source in repo.get_sources()]
        foreign = any(place and place != HYDRA and Path(place) != OURS for place in places)
        if foreign or f"{config_name}.yaml" in ConfigStore.instance().repo:
            return self.create(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        here = [override for override in overrides_list if not override.is_sweep_override()]  # no job's yet
        values, choices = [], []
        for override in here:
            is_value = isinstance(override.value(), dict) or not repo.group_exists(override.key_or_group)
            (values if is_value else choices).append(override)
        chosen = tuple(override.input_line for override in choices)
        key = (config_name, prepend_hydra, skip_missing, tuple(places), chosen)
        if key not in self.lists:
            found = self.create(repo, config_name, overrides_list, prepend_hydra, skip_missing)
            assert found.config_overrides == values
            self.lists[key] = pickle.dumps(found)
        found = pickle.loads(self.lists[key])
        found.config_overrides = values
        self.latest = found.defaults, key
        return found

    def config(self, loader: Any, defaults: Any, repo: Any) -> Any:
        """As ``ConfigLoaderImpl._compose_config_from_defaults_list``."""
        if self.latest is None or self.latest[0] is not defaults:
            return self.compose(loader, defaults, repo)
        key = self.latest[1]
        if key not in self.configs:
            self.configs[key] = pickle.dumps(self.compose(loader, defaults, repo))
        return pickle.loads(self.configs[key])

    def file(self, repo: Any, config_path: str) -> Any:
        """As ``ConfigRepository.load_config``: a copy, as Hydra moves it into the composed config."""
        source = repo._find_object_source(config_path=config_path, object_type=ObjectType.CONFIG)
        if source is None or (source.path != HYDRA and (not source.path or Path(source.path) != OURS)):
            return self.load(repo, config_path)
        key = (source.path, config_path)
        if key not in self.files:
            self.files[key] = pickle.dumps(self.load(repo, config_path))
        return pickle.loads(self.files[key])

    def interpolation_map(self, overrides: Any, defaults_list: Sequence[Any], self_added: bool) -> Any:
        """As ``_create_interpolation_map``, which Hydra calls for every file, also where none of its defaults
        refers to another choice."""
        if any(default.is_interpolation() for default in defaults_list if not default.is_self()):
            return self.references(overrides, defaults_list, self_added)
        return OmegaConf.create()

    def parsed(self, text: str) -> Any:
        """As OmegaConf's ``parse``; its visitors only read what it returns."""
        if text not in self.trees:
            self.trees[text] = parse(text)
        return self.trees[text]

    def install(self, patch: Any) -> None:
        """Take the steps' places.

        Args:
            patch: pytest's ``MonkeyPatch``.
        """
        patch.setattr(config_loader_impl, "create_defaults_list", self.defaults_list)
        patch.setattr(
            ConfigLoaderImpl,
            "_compose_config_from_defaults_list",
            lambda loader, defaults, repo: self.config(loader, defaults, repo),
        )
        patch.setattr(ConfigRepository, "load_config", lambda repo, config_path: self.file(repo, config_path))
        patch.setattr(hydra_defaults, "_create_interpolation_map", self.interpolation_map)
        patch.setattr(CachingConfigRepository, "__init__", _on_a_shallow_copy)
        for user in (omegaconf_base, omegaconf_utils):
            patch.setattr(user, "parse", self.parsed)

    def uninstall(self, patch: Any) -> None:
        """Hydra as it is, to compare with.

        Args:
            patch: pytest's ``MonkeyPatch``.
        """
        patch.setattr(config_loader_impl, "create_defaults_list", self.create)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", self.compose)
        patch.setattr(ConfigRepository, "load_config", self.load)
        patch.setattr(hydra_defaults, "_create_interpolation_map", self.references)
        patch.setattr(CachingConfigRepository, "__init__", self.copied)
        for user in (omegaconf_base, omegaconf_utils):
            patch.setattr(user, "parse", parse)


def _on_a_shallow_copy(caching: Any, delegate: Any) -> None:
    """Hydra copies all that is stored, to give the copy another list of sources."""
    caching.delegate, caching.cache = copy.copy(delegate), {}
