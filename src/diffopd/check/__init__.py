"""Refusing a configuration that cannot work, before anything heavy is imported or any weight is loaded."""

from diffopd.check.composed import check_composed
from diffopd.check.config import check_config
from diffopd.check.error import ConfigError, config_errors, did_you_mean
from diffopd.check.override import COMPOSITION_ERRORS, explain_composition
from diffopd.check.paths import check_fit
from diffopd.check.prompts import check_prompts, reward_is_asked

__all__ = [
    "COMPOSITION_ERRORS",
    "ConfigError",
    "check_composed",
    "check_config",
    "check_fit",
    "check_prompts",
    "config_errors",
    "did_you_mean",
    "explain_composition",
    "reward_is_asked",
]
