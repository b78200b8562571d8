"""All checks of a composed config, cheapest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from omegaconf import DictConfig

from diffopd.check.combination import choice_problems, loss_problems
from diffopd.check.error import ConfigError
from diffopd.check.paths import path_problems
from diffopd.check.setting import setting_problems
from diffopd.check.signal import signal_problems
from diffopd.check.trained_steps import step_problems
from diffopd.check.unused import unused_choices
from diffopd.check.values import plain_values

_SETTING = re.compile(r"\w+(?:[.@/]\w+)*")
"""A setting's path, with which a problem begins."""


def check_config(cfg: DictConfig, config_name: str = "train", overrides: Sequence[str] = ()) -> None:
    """Refuse a config that cannot work.

    Keys, kinds and limits are compared with the source of what will be built, so neither Lightning nor
    diffusers is imported. Only a config that passes has its steps and folders looked at, which brings torch.

    Args:
        cfg: The composed config.
        config_name: The primary config it was composed from: ``train``, ``evaluate``, ``sample``.
        overrides: The command line that chose its groups, as far as it is known.

    Raises:
        ConfigError: Every problem found, one a line: config path, what came, what is allowed.
    """
    values = plain_values(cfg)
    found = [*loss_problems(values), *setting_problems(values, config_name)]
    found += _others(found, lambda: [*unused_choices(cfg, values, overrides), *choice_problems(values)])
    _refuse(found)
    _refuse([*step_problems(values), *signal_problems(values)])
    _refuse(path_problems(values))


def _refuse(problems: Iterable[str]) -> None:
    """End with all problems, each told once, if there are any."""
    if found := list(dict.fromkeys(problems)):
        raise ConfigError("\n".join(found))


def _others(found: Sequence[str], problems: Callable[[], Sequence[str]]) -> list[str]:
    """Problems of settings together, without those that follow from the ones ``found`` in single settings."""
    named = {match[0] for problem in found if (match := _SETTING.match(problem))}
    try:
        return [problem for problem in problems() if not named.intersection(_SETTING.findall(problem))]
    except Exception:
        if found:  # of kinds that no check of several settings expects
            return []
        raise
