"""Hydra's errors for a command line, in the user's words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffopd.check.error import did_you_mean
from diffopd.check.setting import Groups, setting_problems
from diffopd.check.values import plain_values
from diffopd.config.arguments import parts_of, quoted
from diffopd.config.folder import config_folder

COMPOSITION_ERRORS = (CompactHydraException, OmegaConfBaseException, ValueError, TypeError)
"""What Hydra raises when it cannot compose a command line."""

_RUN = "adapter=<a run's folder> takes the model that the run trained"
_MEANT = {"run": _RUN, "checkpoint": _RUN.replace("run's folder", "checkpoint's folder"), "lora": _RUN}
"""What users of `sample` and `evaluate` write for an adapter -> what to write."""
EVERYTHING = ("experiment", "stages", "rows")
"""Choices that most other settings depend on: without them nothing else can be judged."""
_UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")
_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)


def explain_composition(error: Exception, config_name: str, overrides: Sequence[str]) -> str:
    """Why a config could not be composed, with the nearest known names: all mistakes that can be told apart.

    Args:
        error: What Hydra raised, which stops at the first mistake.
        config_name: The primary config, e.g. ``train``.
        overrides: The command line's ``key=value`` arguments.

    Returns:
        A line or more for each, without Hydra's advice to append keys, which a check would refuse later.
    """
    rest, culprit = list(overrides), _culprit(error, overrides)
    mistakes, of_settings = [(error, culprit)], list[str]()
    while culprit is not None and culprit.lstrip("+").partition("=")[0] not in EVERYTHING:
        # What belongs to a choice that is none cannot be judged without it.
        group = f"{culprit.lstrip('+~').partition('=')[0]}."
        rest = [each for each in rest if each != culprit and not each.lstrip("+~").startswith(group)]
        found = _compose(config_name, rest)
        if isinstance(found, DictConfig):
            of_settings = list(setting_problems(plain_values(found), config_name))
            break
        culprit = _culprit(found, rest)
        if culprit is not None and not _SEVERAL.search(str(found)):  # a sweep, which is right in its place
            mistakes.append((found, culprit))
    told = [
        _explain(each, config_name, [*rest, culprit] if culprit else overrides) for each, culprit in mistakes
    ]
    return "\n".join(dict.fromkeys([*told, *of_settings]))


def _culprit(error: Exception, overrides: Sequence[str]) -> str | None:
    """The override that an error is about, if it says so."""
    if isinstance(error, OverrideParseException):
        return next((each for each in overrides if each == str(error.override)), None)
    if several := _SEVERAL.search(str(error)):
        return next((each for each in overrides if each == several[1]), None)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        named = str(error.missing_cfg_file)
        return next((each for each in overrides if "/".join(_group_and_choice(each)) == named), None)
    found = _UNKNOWN_KEY.search(str(error))
    return next(
        (each for each in overrides if found and each.partition("=")[0].lstrip("+~") == found[1]), None
    )


def _group_and_choice(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key.partition("@")[0], value.strip("'\"")


def _compose(config_name: str, overrides: Sequence[str]) -> DictConfig | Exception:
    """The config, or why there is none."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_folder(), version_base="1.3"):
            return compose(config_name, overrides=list(overrides))
    except Exception as error:  # whatever it is, it is no worse than the mistake that is told
        return error


def _explain(error: Exception, config_name: str, overrides: Sequence[str]) -> str:
    """One mistake."""
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{error.object!r} cannot be the name of a file in this locale, of encoding {error.encoding}; "
            "set PYTHONUTF8=1 in the environment"
        )
    if isinstance(error, OverrideParseException):
        return _unreadable(error, overrides)
    if several := _SEVERAL.search(str(error)):
        key, _, values = several[1].partition("=")
        return (
            f"{several[1]}: several values are a sweep, which takes -m (from Python: a call for each value); "
            f"a list is written {key}=[{values}]"
        )
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _unknown_choice(error)
    if "group override must be a string" in str(error) or isinstance(error, TypeError):
        return _no_choice(overrides) or str(error)
    found = _UNKNOWN_KEY.search(str(error))
    if found and "No match in the defaults list" in str(error):
        return _unknown_group(found[1], overrides)
    if found:
        return _unknown_key(found[1], config_name, overrides)
    if "issing" in str(error) and "name" in str(error) and _gives_no_name(config_name, overrides):
        choices = ", ".join(Groups.read().choices["experiment"])
        return f"name is required; start from an experiment, +experiment=... ({choices}), or give name=..."
    cause = f"\n{error.__cause__}" if error.__cause__ is not None and error.__cause__ is not error else ""
    return f"{error}{cause}"


def _unreadable(error: OverrideParseException, overrides: Sequence[str]) -> str:
    """How to quote a value that Hydra cannot read, for a shell."""
    override = str(error.override)
    key, separator, value = override.partition("=")
    if not separator:
        return f"{override}: a setting is given as key=value"
    if re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key) is None:
        return (
            f"{key} is not the name of a setting: that has letters, digits and dots, as in optimizer.lr=1e-3"
        )
    kind = "text"
    if parts := parts_of(value):
        kind, value = "a list of texts", f"[{','.join(map(_in_quotes, parts))}]"
    elif value.startswith(("[", "{")):
        return f"{override}: Hydra cannot read this value; quote the texts in it, and close what is open"
    written = f"{key}={value if parts else quoted(value)}"
    in_a_shell = shlex.quote(written) if set('"$`\\!') & set(written) else f'"{written}"'
    return f"{override}: Hydra cannot read this value; as {kind} it is written {in_a_shell}"


def _in_quotes(part: str) -> str:
    return part if part[:1] in ("'", '"') else quoted(part)


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = [str(option) for option in error.options or ()]
    known = Groups.read().choices
    while group not in known and "/" in group:  # a path was given, model=runs/x
        group, _, part = group.rpartition("/")
        choice = f"{part}/{choice}"
    near = did_you_mean(choice, options, f"{group}=")
    if "/" in choice and group == "model":
        near = "; a folder of weights is given as model.path=..., and model says of which class it is"
    return f"{group}={choice}: there is no such choice{near}\n{group} has {', '.join(options)}"


def _no_choice(overrides: Sequence[str]) -> str | None:
    """Which override gives a config group something that is no name of a choice."""
    choices = Groups.read().choices
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+~").partition("@")[0].rpartition("/")[2]
        if group in choices and value.strip("'\"") not in choices[group]:
            allowed = ", ".join(choices[group])
            return f"{key}={value} must be one of {allowed}; to have none, remove it with ~{key}"
    return None


def _unknown_group(name: str, overrides: Sequence[str]) -> str:
    choices = Groups.read().choices
    if name in choices:
        value = next((o.partition("=")[2] for o in overrides if o.partition("=")[0] == name), "...")
        return (
            f"{name}={value}: no {name} is chosen yet that this could replace; add one with +{name}={value} "
            f"({', '.join(choices[name])})"
        )
    near = did_you_mean(name, choices)
    return f"{name} is not a config group{near or '; there are ' + ', '.join(choices)}"


def _unknown_key(path: str, config_name: str, overrides: Sequence[str]) -> str:
    parent, _, key = path.rpartition(".")
    if meant := _MEANT.get(path) if config_name in ("sample", "evaluate") else None:
        return f"{path} is not a setting of {config_name}; {meant}"
    keys = _keys_of(parent, config_name, [o for o in overrides if o.partition("=")[0].lstrip("+~") != path])
    near = did_you_mean(key, keys, f"{parent}." if parent else "")
    here = f" of {parent}" if parent else f" of {config_name}"
    return f"{path} is not a setting{here}{near or ('; it has ' + ', '.join(keys) if keys else '')}"


def _keys_of(parent: str, config_name: str, overrides: Sequence[str]) -> list[str]:
    """Keys of a node of the config that the other overrides make; none if they make none."""
    node: Any = _compose(config_name, overrides)
    if isinstance(node, Exception):  # a suggestion is not worth a second error
        return []
    node = OmegaConf.select(node, parent) if parent else node
    return [str(key) for key in node if not str(key).startswith("_")] if isinstance(node, DictConfig) else []


def _gives_no_name(config_name: str, overrides: Sequence[str]) -> bool:
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    return config_name == "train" and not given & {"name", "experiment"}
