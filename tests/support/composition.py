"""Hydra's work on a command line's choices is kept: composing is a third of what many tests would do."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore

from diffopd.config.folder import config_folder

OURS = Path(config_folder())


class RememberedChoices:
    """Stands in for two steps of Hydra's composition, which depend on the choices of groups alone.

    Values (``optimizer.lr=1``) are set afterwards, by Hydra itself, on a fresh copy. Configs from any folder
    but this project's, or from the memory, are composed anew each time: those change.
    """

    def __init__(self) -> None:
        self.create = config_loader_impl.create_defaults_list
        self.compose = ConfigLoaderImpl._compose_config_from_defaults_list
        self.lists: dict[tuple[Any, ...], bytes] = {}
        self.configs: dict[tuple[Any, ...], bytes] = {}
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
        foreign = any(place and place != "hydra.conf" and Path(place) != OURS for place in places)
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

    def install(self, patch: Any) -> None:
        """Take the two steps' places.

        Args:
            patch: pytest's ``MonkeyPatch``.
        """
        patch.setattr(config_loader_impl, "create_defaults_list", self.defaults_list)
        patch.setattr(
            ConfigLoaderImpl,
            "_compose_config_from_defaults_list",
            lambda loader, defaults, repo: self.config(loader, defaults, repo),
        )
