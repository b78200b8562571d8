"""Command-line arguments as people write them, turned into what Hydra reads."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise

ADAPTER: Mapping[str, str] = {"adapter": "adapter_path"}

TEXT = (
    "name", "run_id", "run", "from", "to", "out", "title", "adapter_path", "model_path", "tokenizer",
    "reward_name", "benchmark_name", "host", "license", "push_to_hub", "token_variable",
    "reference", "paths.*", "model.path",
    "model.revision", "model.prompt_cache", "teacher.teachers.*.path", "data.path", "data.captions",
    "data.picture_key", "data.tasks.*.path",
    "benchmark.path", "benchmark.tasks.*.path", "regulariser.path", "adapter.start", "phase.output",
    "pipeline.path", "callbacks.*folder", "logger.*folder", "logger.*.save_dir", "logger.*.name",
    "reward.*path", "reward.*revision", "reward.*address", "metric.*path", "metric.*revision",
    "trainer.default_root_dir", "runs", "scorer_pairs.*.better", "scorer_pairs.*.worse",
    "scorer_pairs.*.prompt",
)  # fmt: skip
"""Settings that are text or a path (``*`` for any text): what Hydra would read otherwise is quoted."""

TEXTS = (
    "overrides", "*.overrides", "shared", "runs", "ablations", "benchmarks", "first.*.*", "rows.*.arguments",
    "models.*.results", "adapter.merge.folders", "callbacks.samples.prompts",
)  # fmt: skip
"""Settings that are lists of such, written ``[one,two]``."""

_PLAIN = re.compile(r"[A-Za-z_./][\w./:@%+-]*", re.ASCII)
_SPECIAL = ("null", "true", "false", "nan", "inf", "???", "")
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list)\(.*\)|.*,.*", re.DOTALL)


def own_folders(arguments: Sequence[str]) -> list[str]:
    """The folder that ``--config-dir`` names, as Hydra's ``compose`` takes it; nothing without one.

    Examples:
        >>> own_folders(["--config-dir", "/my/conf", "seed=1"])
        ['hydra.searchpath=[file:///my/conf]']
    """
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config-dir=")]
    named += [value for flag, value in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    return [f"hydra.searchpath=[file://{os.path.abspath(folder)}]" for folder in named]


def hydra_arguments(
    arguments: Sequence[str], *, short: Mapping[str, str] = ADAPTER, whole: Collection[str] = ("prompt",)
) -> list[str]:
    """Arguments with adapters and prompts in Hydra's terms, the others as they are.

    ``adapter=<folder>`` becomes ``adapter_path=<folder>``: ``adapter`` is a config group too, and Hydra would
    look for a file of that name in it. A prompt is quoted, so that all of it is text, exactly as it came:
    commas, quotes, backslashes, ``${...}``.

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
    return f"{key}={quoted(value)}" if key in whole and separator else argument


def with_text_quoted(arguments: Sequence[str]) -> list[str]:
    """Arguments with values quoted that are text by their setting, and something else to Hydra.

    Quotes, references (``${...}``), null and, in a sweep, lists of values mean what they mean to Hydra.

    Args:
        arguments: As on the command line. Bytes that the locale could not decode are read as UTF-8.

    Examples:
        >>> print(*with_text_quoted(["adapter_path=runs/lr=3e-4/adapter", "run_id=007", "seed=1"]), sep="; ")
        adapter_path='runs/lr=3e-4/adapter'; run_id='007'; seed=1
        >>> print(*with_text_quoted(["overrides=[optimizer.lr=1e-4,~report]"]))
        overrides=['optimizer.lr=1e-4','~report']
    """
    sweep = not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)
    return [_with_text_quoted(_decoded(argument), sweep) for argument in arguments]


def _with_text_quoted(argument: str, sweep: bool) -> str:
    key, separator, value = argument.partition("=")
    name = key.lstrip("+")
    if separator and any(fnmatchcase(name, pattern) for pattern in TEXTS) and (parts := parts_of(value)):
        return f"{key}=[{','.join(part if _is_read(part) else quoted(part) for part in parts)}]"
    is_text = any(fnmatchcase(name, pattern) for pattern in TEXT)
    if not separator or not is_text or value.lower() in _SPECIAL or _PLAIN.fullmatch(value):
        return argument
    if _is_quoted(value) or "${" in value or (sweep and _SWEEP.fullmatch(value)):
        return argument
    return f"{key}={quoted(value)}"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]


def _is_read(part: str) -> bool:
    """Whether Hydra reads a part of a list as it is meant."""
    return _is_quoted(part) or "${" in part or _PLAIN.fullmatch(part) is not None


def parts_of(value: str) -> list[str]:
    """The parts of a list as typed, ``[one,two]``: split at commas outside of quotes and brackets.

    Returns:
        The parts; none if it is no list, or an empty one, or its quotes and brackets do not close.

    Examples:
        >>> parts_of("[optimizer.lr=1e-3, 'a, b', model.lora_modules=[x,y]]")
        ['optimizer.lr=1e-3', "'a, b'", 'model.lora_modules=[x,y]']
    """
    if len(value) < 3 or value[0] != "[" or value[-1] != "]":
        return []
    parts, quote, depth = [""], "", 0
    for character in value[1:-1]:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        if depth < 0:  # [one],[two] is a sweep over lists
            return []
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts] if not quote and depth == 0 else []


def _decoded(argument: str) -> str:
    """``argument`` as UTF-8, where the locale is ASCII and left bytes of it as surrogates."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def quoted(text: str) -> str:
    r"""``text`` so that Hydra and OmegaConf take all of it for one value, exactly as it is.

    Examples:
        >>> print(quoted("runs/a, b"))
        'runs/a, b'
        >>> print(quoted("it's ${HOME}"))
        'it\'s \${HOME}'
    """
    # A reference is text after a backslash, and backslashes before it are then doubled.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # In Hydra's quoted strings a backslash is special only before a quote, or at the end.
    return (
        "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), literal) + "'"
    )
