"""Values that a config path may have, where the constructor's annotation cannot say it.

Constructors that are built before any weights load check their own arguments; here is the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from diffopd.check.annotation import shown
from diffopd.check.error import did_you_mean
from diffopd.check.values import UNKNOWN, UNSET

Rule = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(least: int) -> Rule:
    """A whole number of at least ``least``."""
    return f"a whole number of at least {least}", lambda value: _is_whole(value) and value >= least


def whole_or(least: int, other: Any) -> Rule:
    """The same, or one other value."""
    text, holds = whole(least)
    return f"{text}, or {shown(other)}", lambda value: value == other or holds(value)


def one_of(*choices: Any) -> Rule:
    """One of a few values."""
    return f"one of {', '.join(map(shown, choices))}", lambda value: any(
        value == choice and type(value) is type(choice) for choice in choices
    )


def or_null(rule: Rule) -> Rule:
    """The same, or null."""
    text, holds = rule
    return f"{text}, or null", lambda value: value is None or holds(value)


TEXT: Rule = ("text", lambda value: isinstance(value, str) and bool(value))
ABOVE_0: Rule = ("a finite number above 0", lambda value: _is_number(value) and value > 0)
AT_LEAST_0: Rule = ("a finite number of at least 0", lambda value: _is_number(value) and value >= 0)
SHARE: Rule = ("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
DECAY: Rule = ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
PRECISION = one_of("fp32", "bf16", "fp16")

LIMITS: Mapping[str, Rule] = {
    "seed": whole(0),
    "resume": one_of("auto", "never"),
    "if_finished": one_of("report", "skip"),
    "debug": one_of(True, False),
    "num_threads": whole_or(1, "auto"),
    "batch_size": whole(1),
    "devices": whole(1),
    "save_images": one_of(True, False),
    "num_images": whole(1),
    "num_shown": whole(0),
    "guidance_scale": AT_LEAST_0,
    "port": whole(0),
    "max_body_mb": whole(1),
    "max_images": whole(1),
    "max_side": whole(1),
    "max_waiting": whole(1),
    "batch_images": whole(1),
    "batch_wait": AT_LEAST_0,
    "timeout": ABOVE_0,
    "check_scorers": one_of(True, False),
    "format": one_of("peft", "diffusers", "comfyui", "merged"),
    "whole_pipeline": one_of(True, False),
    "compare_in_fp32": one_of(True, False),
    "tolerance": ABOVE_0,
    "model_dtype": ("one of fp32, bf16, fp16, or null", lambda value: value is None or PRECISION[1](value)),
    "teacher.teachers.*.path": TEXT,
    "teacher.teachers.*.guidance_scale": or_null(AT_LEAST_0),
    "routing.weights.*.*": AT_LEAST_0,
    "data.tasks.*.path": TEXT,
    "data.tasks.*.prompts_per_round": whole(1),
    "data.tasks.*.group_size": whole(1),
    "phase.noise_window.size": whole_or(1, None),
    "phase.noise_window.first": whole(0),
    "phase.noise_window.last": whole(0),
    "trainer.num_threads": whole_or(1, "auto"),
    "trainer.max_epochs": whole(1),
    "model.*dtype": PRECISION,
    "model.image_size": whole(1),
    "model.decode_batch_size": whole_or(1, None),
    "adapter.alpha": ABOVE_0,
    "optimizer.lr": ABOVE_0,
    "optimizer.weight_decay": AT_LEAST_0,
    "optimizer.eps": ABOVE_0,
    "optimizer.betas.*": DECAY,
    "phase.gradient_clip": ABOVE_0,
    "phase.micro_batch_size": whole_or(1, None),
    "phase.score_every_n_rounds": whole(0),
    "phase.num_timesteps": whole_or(1, None),
    "phase.updates_per_round": whole(1),
    "phase.ema.decay": SHARE,
    "phase.ema.update_interval": whole(1),
    "phase.ema_decay": DECAY,
    "phase.old_policy.decay_type": one_of(0, 1, 2, None),
    "phase.old_policy.start": whole(0),
    "phase.old_policy.rate": AT_LEAST_0,
    "phase.old_policy.cap": DECAY,
    "phase.warmup_steps": whole(0),
    "phase.caption_dropout": SHARE,
    "phase.sigma_shift": ABOVE_0,
    "phase.kl_weight": AT_LEAST_0,
    "phase.gradient_weight": AT_LEAST_0,
    "phase.fake_optimizer.lr": ABOVE_0,
    "phase.fake_optimizer.betas.*": DECAY,
    "phase.fake_optimizer.weight_decay": AT_LEAST_0,
    "phase.fake_updates_per_round": whole(1),
    "phase.best_of_n": whole(1),
    "phase.sigma_scale": ABOVE_0,
    "phase.tau_min": ABOVE_0,
    "phase.tau_max": ABOVE_0,
    "phase.tau_shift": ABOVE_0,
    "phase.num_segments": whole(1),
    "phase.num_draws": whole(1),
    "seeds": whole(1),
    "num_processes": whole(1),
    "callbacks.adapter_export.adapter": one_of("average", "student"),
}
"""Config path (``*`` for any part) -> what it must be."""


def matches(path: str, pattern: str) -> bool:
    """Whether a config path fits a pattern, in which ``*`` stands for any text within one part.

    Examples:
        >>> matches("data.tasks.ocr", "data.tasks.*"), matches("data.tasks.ocr.path", "data.tasks.*")
        (True, False)
    """
    parts, patterns = path.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def limit_problems(path: str, value: Any) -> Iterator[str]:
    """What is wrong with one value, if its path has a limit."""
    if value is UNSET or value is UNKNOWN:
        return
    for text, holds in _limits_of(path):
        if not holds(value):
            choices = text.removeprefix("one of ").split(", ") if text.startswith("one of ") else []
            yield f"{path}={shown(value)} must be {text}{did_you_mean(shown(value), choices)}"


@cache
def _limits_of(path: str) -> Sequence[Rule]:
    """A command checks the config of each of its trainings: the same paths again and again."""
    return [rule for pattern, rule in LIMITS.items() if matches(path, pattern)]
