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
from omegaconf import ListConfig, OmegaConf
from omegaconf import _utils as omegaconf_utils
from omegaconf import base as omegaconf_base
from omegaconf.base import Box
from omegaconf.grammar_parser import parse

from diffopd.config.folder import config_folder

OURS = Path(config_folder())
HYDRA = "hydra.conf"


class RememberedChoices:
    """Stands in for two steps of Hydra's composition, which depend on the choices of groups alone.

    Values (``optimizer.lr=1``) are set afterwards, by Hydra itself, on a fresh copy. Configs from any folder
    but this project's, or from the memory, are composed anew each time: those change. For new choices,
    each file of this project and of Hydra is read and put at its place once, each reference (``${seed}``) is
    parsed once, and what Hydra makes for no reader is left out.
    """

    def __init__(self) -> None:
        self.create = config_loader_impl.create_defaults_list
        self.compose = ConfigLoaderImpl._compose_config_from_defaults_list
        self.load = ConfigRepository.load_config
        self.place = ConfigLoaderImpl._load_single_config
        self.header = hydra_defaults.update_package_header
        self.parents = Box._re_parent
        self.references = hydra_defaults._create_interpolation_map
        self.copied = CachingConfigRepository.__init__
        self.lists: dict[tuple[Any, ...], bytes] = {}
        self.configs: dict[tuple[Any, ...], bytes] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.placed: dict[tuple[str, str, Any, bool], bytes] = {}
        self.headers: dict[tuple[str, str], Any] = {}
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
        source = _lasting_source(repo, config_path)
        if source is None:
            return self.load(repo, config_path)
        key = (source, config_path)
        if key not in self.files:
            self.files[key] = pickle.dumps(self.load(repo, config_path))
        return pickle.loads(self.files[key])

    def package_header(self, repo: Any, node: Any) -> None:
        """As ``update_package_header``, without loading a config to look at its first line."""
        path = None if node.is_missing() else node.get_config_path()
        source = _lasting_source(repo, path)
        if path is None or source is None:
            self.header(repo, node)
            return
        key = (source, path)
        if key not in self.headers:
            self.headers[key] = repo.load_config(config_path=path).header["package"]
        node.set_package_header(self.headers[key])

    def single_config(self, loader: Any, default: Any, repo: Any) -> Any:
        """As ``ConfigLoaderImpl._load_single_config``: a copy of a file's values, below their package."""
        source = _lasting_source(repo, default.config_path)
        if source is None:
            return self.place(loader, default, repo)
        key = (source, default.config_path, default.package, default.primary)
        if key not in self.placed:
            self.placed[key] = pickle.dumps(self.place(loader, default, repo))
        return pickle.loads(self.placed[key])

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
        patch.setattr(
            ConfigLoaderImpl,
            "_load_single_config",
            lambda loader, default, repo: self.single_config(loader, default, repo),
        )
        patch.setattr(hydra_defaults, "update_package_header", self.package_header)
        patch.setattr(Box, "_re_parent", _re_parent)
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
        patch.setattr(ConfigLoaderImpl, "_load_single_config", self.place)
        patch.setattr(hydra_defaults, "update_package_header", self.header)
        patch.setattr(Box, "_re_parent", self.parents)
        patch.setattr(hydra_defaults, "_create_interpolation_map", self.references)
        patch.setattr(CachingConfigRepository, "__init__", self.copied)
        for user in (omegaconf_base, omegaconf_utils):
            patch.setattr(user, "parse", parse)


def _on_a_shallow_copy(caching: Any, delegate: Any) -> None:
    """Hydra copies all that is stored, to give the copy another list of sources."""
    caching.delegate, caching.cache = copy.copy(delegate), {}


def _lasting_source(repo: Any, config_path: str | None) -> str | None:
    """Where a config lies that stays as it is: this project's folder or Hydra's package; else None."""
    if config_path is None:
        return None
    if isinstance(repo, CachingConfigRepository):
        repo = repo.delegate
    of, known = repo.__dict__.get("lasting_sources", (None, {}))
    if of is not repo.sources:  # a copy that has got a search path of its own
        known = {}
        repo.lasting_sources = repo.sources, known
    if config_path not in known:
        source = repo._find_object_source(config_path=config_path, object_type=ObjectType.CONFIG)
        path = source.path if source is not None else None
        known[config_path] = path if path and (path == HYDRA or Path(path) == OURS) else None
    return known[config_path]


def _re_parent(box: Any) -> None:
    """As ``Box._re_parent``, which every merge calls for the whole config, in a third of the time."""
    content = box.__dict__["_content"]
    if isinstance(content, dict):
        nodes = content.values()
    elif isinstance(box, ListConfig) and isinstance(content, list):
        nodes = content
    elif isinstance(content, omegaconf_base.Node):  # of a union
        nodes = (content,)
    else:
        return
    for node in nodes:
        if node is not None:
            held = node.__dict__
            held["_parent"] = box
            if held["_flags_cache"] is not None:
                node._invalidate_flags_cache()
            if "_content" in held and held["_content"].__class__ in (dict, list):
                _re_parent(node)
            elif isinstance(node, omegaconf_base.UnionNode):
                _re_parent(node)
