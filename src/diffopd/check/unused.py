"""Does the run use what the command line chooses?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.check.setting import Groups, phase_takes, targets_of
from diffopd.check.source import read_target


def unused_choices(cfg: DictConfig, values: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    """Choices of groups that were typed and have no effect, as one sentence each.

    A phase is built from the groups that its class names; of the others none is built. A group that another
    part of the config refers to is used by that.

    Args:
        cfg: The composed config.
        values: The same by :func:`diffopd.check.values.plain_values`.
        overrides: As on the command line.
    """
    if not isinstance(values.get("phase"), Mapping):
        return
    groups = Groups.read()
    for override in overrides:
        group = override.partition("=")[0].lstrip("+")
        if group not in groups.choices or phase_takes(values, group):
            continue
        fitting = _phases_with(group)
        if fitting and not _is_referred_to(cfg, group):
            phase = groups.choice_of("phase", str(values["phase"].get("_target_")))
            yield (
                f"{override} has no effect: phase={phase} takes no {group}; leave it out, or choose an "
                f"experiment of a phase that does ({', '.join(fitting)})"
            )


def _phases_with(group: str) -> list[str]:
    """The choices of phase that are built from a group; none if no phase is."""
    groups = Groups.read()
    targets = {name: read_target(name) for name in targets_of("phase")}
    return [groups.choice_of("phase", name) for name, of in targets.items() if of and group in of.parameters]


def _is_referred_to(cfg: DictConfig, group: str) -> bool:
    """Whether another part of a config has a reference to a group."""
    others: Any = {key: value for key, value in _raw(cfg).items() if key not in (group, "hydra")}
    return re.search(rf"\$\{{{group}[.}}\[]", OmegaConf.to_yaml(OmegaConf.create(others))) is not None


def _raw(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=False)  # type: ignore[return-value]
