"""Command-line arguments as people write them, turned into what Hydra reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

ADAPTER: Mapping[str, str] = {"adapter": "adapter_path"}


def hydra_arguments(
    arguments: Sequence[str], *, short: Mapping[str, str] = ADAPTER, whole: Collection[str] = ("prompt",)
) -> list[str]:
    """Arguments with adapters and prompts in Hydra's terms, the others as they are.

    ``adapter=<folder>`` becomes ``adapter_path=<folder>``: ``adapter`` is a config group too, and Hydra would
    look for a file of that name in it. A prompt is quoted, so that commas, brackets and quotes belong to it.

    Args:
        arguments: As on the command line.
        short: What users write for a setting -> its name in the config.
        whole: Settings whose value is text to be taken as it is.

    Examples:
        >>> print(*hydra_arguments(["adapter=runs/x", 'prompt=a sign that says "CAT"', "seed=1"]), sep="; ")
        adapter_path=runs/x; prompt='a sign that says "CAT"'; seed=1
    """
    return [_hydra_argument(argument, short, whole) for argument in arguments]


def _hydra_argument(argument: str, short: Mapping[str, str], whole: Collection[str]) -> str:
    key, separator, value = argument.partition("=")
    if key in short and separator:
        return f"{short[key]}={value}"
    already = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    if key not in whole or not separator or already:
        return argument
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """``text`` so that Hydra takes all of it for one value.

    Examples:
        >>> print(quoted("runs/a, b"))
        'runs/a, b'
    """
    # In Hydra's quoted strings a backslash is special only before a quote, or at the end.
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
