"""All checks of a composed config, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from diffopd.check.combination import combination_problems, loss_problems
from diffopd.check.error import ConfigError
from diffopd.check.paths import path_problems
from diffopd.check.setting import setting_problems
from diffopd.check.signal import signal_problems
from diffopd.check.unused import unused_choices
from diffopd.check.values import plain_values


def check_config(cfg: DictConfig, config_name: str = "train", overrides: Sequence[str] = ()) -> None:
    """Refuse a config that cannot work.

    Keys, kinds and limits are compared with the source of what will be built, so neither Lightning nor
    diffusers is imported. Only a config that passes has its combinations and folders looked at.

    Args:
        cfg: The composed config.
        config_name: The primary config it was composed from: ``train``, ``evaluate``, ``sample``.
        overrides: The command line that chose its groups, as far as it is known.

    Raises:
        ConfigError: Every problem found, one a line: config path, what came, what is allowed.
    """
    values = plain_values(cfg)
    for problems in (
        lambda: [*loss_problems(values), *setting_problems(values, config_name)],
        lambda: [
            *unused_choices(cfg, values, overrides),
            *combination_problems(values),
            *signal_problems(values),
        ],
        lambda: path_problems(values),
    ):
        if found := list(dict.fromkeys(problems())):
            raise ConfigError("\n".join(found))
