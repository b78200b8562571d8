"""Are a config's keys known, its required values given, its values of the right kind?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.check.absent import why_absent
from diffopd.check.annotation import Allowed, allowed_by, shown
from diffopd.check.error import did_you_mean
from diffopd.check.interface import interface_problems
from diffopd.check.limit import limit_problems, matches
from diffopd.check.source import Target, read_target
from diffopd.check.values import UNKNOWN, UNSET
from diffopd.config.aliases import choices
from diffopd.config.folder import config_folder

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}

KEYS: Mapping[str, Sequence[str]] = {
    "hardware": ("micro_batch_size",),
    "adapter.merge": ("method", "folders", "weights"),
    "paths": ("root", "run", "checkpoints"),
    "phase.ema": ("decay", "update_interval"),
    "phase.noise_window": ("size", "first", "last"),
    "phase.old_policy": ("decay_type", "start", "rate", "cap"),
    "teacher.teachers.*": ("path", "guidance_scale"),
    "scorer_pairs.*": ("better", "worse", "prompt", "metadata"),
    "models.*": ("results", "hours"),
    "columns.*": ("benchmark", "task", "score"),
    "rows.*": ("command", "arguments", "evaluation", "adapters", "teachers", "seeds", "guidance", "note"),
    "wins.*": ("text", "tasks", "against", "needs", "margin"),
    "stages.*": ("experiment", "overrides"),
    "data.tasks.*": ("path", "prompts_per_round", "group_size"),
}
"""Keys of mappings that are handed over as they are."""

OPTIONAL: Mapping[str, Sequence[str]] = {"rows.*": ("evaluation", "adapters")}
"""Those of them that need not be there."""

BESIDE_TARGET: Mapping[str, Sequence[str]] = {"trainer": ("num_threads",)}
"""Keys of a node that its target does not take."""


LISTED = ("callbacks", "logger")
"""Groups whose choices are mappings of several parts."""


@cache
def targets_of(group: str) -> tuple[str, ...]:
    """The classes that the choices of a config group name; none if there is no such group.

    Read as lines, as parsing all files of all groups would take longer than the rest of the check.
    """
    indent = "  " if group in LISTED else ""
    found = (
        re.findall(rf"^{indent}_target_: *([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        for file in sorted((Path(config_folder()) / group).glob("*.yaml"))
    )
    return tuple(dict.fromkeys(name for names in found for name in names))


@dataclass(frozen=True)
class Groups:
    """The config groups and their choices.

    Attributes:
        choices: group -> names of its files and aliases.
    """

    choices: Mapping[str, Sequence[str]]

    @staticmethod
    @cache
    def read() -> Groups:
        """Those of this installation."""
        folders = sorted(folder for folder in Path(config_folder()).iterdir() if folder.is_dir())
        return Groups({folder.name: choices(folder.name) for folder in folders})

    def choice_of(self, group: str, target: str) -> str:
        """The choice in ``group`` that names ``target``, or ``target`` itself if none does."""
        for file in sorted((Path(config_folder()) / group).glob("*.yaml")):
            node = OmegaConf.load(file)
            if isinstance(node, DictConfig) and node.get("_target_") == target:
                return file.stem
        return target


def setting_problems(values: Mapping[str, Any], config_name: str) -> Iterator[str]:
    """Everything wrong with the settings of a composed config, as one sentence each.

    Args:
        values: The config by :func:`diffopd.check.values.plain_values`.
        config_name: The primary config it was composed from, e.g. ``train``.
    """
    groups = Groups.read()
    known = {*groups.choices, *_keys_of_primary(config_name)} - {"defaults", "experiment", "hydra"}
    for key, value in values.items():
        if key not in known:
            yield f"{key} is not a setting of {config_name}{did_you_mean(key, known)}"
        elif value is UNSET:
            hint = _EXPERIMENTS if key == "name" else ""
            yield f"{key} is required and has no value; give it as {key}=...{hint}"
        elif isinstance(value, Mapping):
            yield from limit_problems(key, value)
            yield from _kind_problems(key, value, groups)
            yield from _node_problems(key, value)
        elif value is not None and value is not UNKNOWN and targets_of(key):
            yield f"{key}={shown(value)} must be a choice of its group: {', '.join(groups.choices[key])}"
        else:
            yield from limit_problems(key, value)
    yield from _phase_problems(values, groups)


def _keys_of_primary(config_name: str) -> Iterator[str]:
    """Keys of a primary config and of those it is made from, as ``doctor`` is from ``train``."""
    primary: Any = OmegaConf.load(Path(config_folder()) / f"{config_name}.yaml")
    yield from (str(key) for key in primary)
    for entry in primary.get("defaults", ()):
        if isinstance(entry, str) and entry != "_self_":
            yield from _keys_of_primary(entry)


def _kind_problems(key: str, node: Mapping[str, Any], groups: Groups) -> Iterator[str]:
    """Is what a group builds of the kind that its choices are? A class of the user's own may be."""
    known = targets_of(key)
    parts = {f"{key}.{name}": part for name, part in node.items()} if key in LISTED else {key: node}
    for path, part in parts.items() if known else ():
        if not isinstance(part, Mapping):
            if part is not UNKNOWN:
                yield f"{path}={shown(part)} must be a mapping with _target_, or be left out with ~{path}"
        elif "_target_" not in part:
            yield f"{path}._target_ is missing; choose one of {', '.join(known)}"
        elif not isinstance(part["_target_"], str):
            continue  # said of every node
        elif part["_target_"] not in known and any(
            part["_target_"] in targets_of(other) for other in groups.choices
        ):
            yield f"{path}._target_={part['_target_']} is no {key}; choose one of {', '.join(known)}"
        elif bool(part.get("_partial_")) != (key in PARTIAL):
            yield f"{path}._partial_={shown(part.get('_partial_'))} must be {shown(key in PARTIAL)}"


PARTIAL = ("phase", "optimizer")
"""Groups whose classes get more than the config says."""


def _node_problems(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Problems of a node and of all below it."""
    target = None
    named, partial = node.get("_target_"), node.get("_partial_", False)
    if "_target_" in node and not isinstance(named, str) and named is not UNSET and named is not UNKNOWN:
        yield f"{path}._target_={shown(named)} must be the name of a class"
    if not isinstance(partial, bool):
        yield f"{path}._partial_={shown(partial)} must be true or false"
    if isinstance(named, str):
        target = read_target(named)
        yield from interface_problems(path, node)
        yield from _target_problems(path, node, target)
    else:
        yield from _keys_problems(path, node)
    for key, value in node.items():
        place = f"{path}.{key}"
        if value is UNSET:
            yield f"{place} is required and has no value; give it as {place}=..."
        elif value is not UNKNOWN:
            yield from _value_problems(place, value, target)


def _value_problems(place: str, value: Any, target: Target | None) -> Iterator[str]:
    """Problems of one value under a node, and of all below it."""
    parameter = target.parameters.get(place.rpartition(".")[2]) if target else None
    allowed = allowed_by(parameter) if parameter else None
    if allowed and not allowed.accepts(value):
        yield allowed.problem(place, value)
    elif allowed and allowed.items and (wrong := list(_item_problems(place, value, allowed.items))):
        yield from wrong
    elif isinstance(value, Mapping):
        yield from limit_problems(place, value)
        yield from _node_problems(place, value)
    elif value is None and allowed and "None" in allowed.kinds:  # which this project may not allow
        yield from limit_problems(place, value)
    elif keys := next((keys for pattern, keys in KEYS.items() if matches(place, pattern)), None):
        yield f"{place}={shown(value)} must be a mapping with {', '.join(keys)}"
    elif isinstance(value, list):
        yield from limit_problems(place, value)
        for number, item in enumerate(value):
            yield from limit_problems(f"{place}.{number}", item)
            if isinstance(item, Mapping):
                yield from _node_problems(f"{place}.{number}", item)
    else:
        yield from limit_problems(place, value)


def _item_problems(place: str, value: Any, allowed: Allowed) -> Iterator[str]:
    """Parts of a list or mapping that are not of the kind its annotation names."""
    pairs = (
        value.items() if isinstance(value, Mapping) else enumerate(value if isinstance(value, list) else ())
    )
    for key, item in pairs:
        if item is UNSET or item is UNKNOWN or key in HYDRA_KEYS or allowed.accepts(item):
            continue
        if not any(matches(f"{place}.{key}", pattern) for pattern in KEYS):  # which says more
            yield allowed.problem(f"{place}.{key}", item)


def _target_problems(path: str, node: Mapping[str, Any], target: Target | None) -> Iterator[str]:
    """Does the class that a node names exist, and take the node's keys?"""
    name = node["_target_"]
    if target is None:
        if reason := why_absent(name):
            yield f"{path}._target_={name}: {reason}"
        return
    later = {"params"} if node.get("_partial_") else set()  # an optimizer gets its parameters from the phase
    for key in sorted(later & set(node)):
        yield f"{path}.{key} is not a setting: the phase gives it"
    beside = BESIDE_TARGET.get(path, ())
    if not target.takes_any:
        known = [*(key for key in target.parameters if key not in _parts_of(path)), *beside]
        for key in node:
            if key not in known and key not in HYDRA_KEYS:
                near = did_you_mean(key, known, f"{path}.")
                yield f"{path}.{key} is not a setting of {name}{near or _list(known)}"
    if path == "phase":  # what it is built from is asked for apart
        return
    for key, parameter in target.parameters.items():
        if parameter.required and key not in node and key not in later:
            yield f"{path}.{key} is missing; {name} needs it"


def _keys_problems(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Has a mapping without a class the keys it should have?"""
    for pattern, keys in KEYS.items():
        if not matches(path, pattern):
            continue
        for key in node:
            if key not in keys:
                yield f"{path}.{key} is not a setting{did_you_mean(key, keys, f'{path}.') or _list(keys)}"
        for key in keys:
            if key not in node and key not in OPTIONAL.get(pattern, ()):
                yield f"{path}.{key} is missing"


def _phase_problems(values: Mapping[str, Any], groups: Groups) -> Iterator[str]:
    """Is there a phase, with all it is built from?"""
    if "optimizer" not in values:  # not a config of a training
        return
    for group in ("phase", "data"):
        if values.get(group) is None:
            yield f"no {group} is chosen{_EXPERIMENTS}, or +{group}=... ({', '.join(groups.choices[group])})"
    target = _phase_target(values)
    if target is None:
        return
    for key, parameter in target.parameters.items():
        if not parameter.required or key in values["phase"]:
            continue
        if key not in groups.choices:
            yield f"phase.{key} is missing; {values['phase']['_target_']} needs it"
        elif values.get(key) is None:
            yield (
                f"{values['phase']['_target_']} needs a {key} and none is chosen; "
                f"choose one with +{key}=... ({', '.join(groups.choices[key])})"
            )


def phase_takes(values: Mapping[str, Any], group: str) -> bool:
    """Whether the chosen phase is built from ``group``; True where there is no phase."""
    target = _phase_target(values)
    return target is None or group in target.parameters


def _phase_target(values: Mapping[str, Any]) -> Target | None:
    phase = values.get("phase")
    name = phase.get("_target_") if isinstance(phase, Mapping) else None
    return read_target(name) if isinstance(name, str) else None


def _parts_of(path: str) -> set[str]:
    """Arguments of a phase that are config groups of their own."""
    return set(Groups.read().choices) if path == "phase" else set()


_EXPERIMENTS = "; start from an experiment, +experiment=... (`diffopd experiments` lists them)"
"""Not the list itself: several problems of one config say so."""


def _list(keys: Sequence[str]) -> str:
    return f"; it has {', '.join(keys) or 'none'}"
