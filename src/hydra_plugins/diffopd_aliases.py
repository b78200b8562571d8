"""The choices of ``conf/aliases.yaml``, made known to Hydra: it imports this namespace before it composes."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from diffopd.config.aliases import GLOBAL, aliases

for _alias, _node in aliases().items():
    _group, _, _name = _alias.rpartition("/")
    ConfigStore.instance().store(
        group=_group, name=_name, node=_node, package="_global_" if _group in GLOBAL else None
    )
