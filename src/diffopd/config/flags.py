"""Hydra's flags on the command line: only whole names, so that no setting is taken for one."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.utils import get_args_parser  # Hydra offers no other way to its flags

NOT_OFFERED = ("--experimental-rerun",)
"""Reads a pickle, which can run any code; ``from=<run folder>`` runs a saved config."""


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse what looks like a flag and is none of Hydra's.

    Hydra takes any beginning of a flag for it, so that ``--experiment x`` is ``--experimental-rerun x``.

    Args:
        arguments: As on the command line.

    Raises:
        ValueError: With the setting that was probably meant.
    """
    known = {flag for flag in get_args_parser()._option_string_actions if flag not in NOT_OFFERED}
    for place, argument in enumerate(arguments):
        flag, separator, value = argument.partition("=")
        if not flag.startswith("-") or flag in known:
            continue
        following = arguments[place + 1] if place + 1 < len(arguments) and not separator else value
        name = flag.lstrip("-").replace("-", "_")
        group = "+" if name == "experiment" else ""
        if flag in NOT_OFFERED:
            raise ValueError(f"{flag} is not offered; from=<run folder> repeats a run from its saved config")
        raise ValueError(
            f"{flag} is not a flag; settings are written without dashes: {group}{name}={following or '...'} "
            f"(the flags are {', '.join(sorted(flag for flag in known if flag.startswith('--')))})"
        )
