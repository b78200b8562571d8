"""The command that made a run, so that a shell makes the same run of it."""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from diffopd.config.saved import FROM, TRUST

NOTE = "command.txt"
"""In Hydra's folder of a run: the command that was last given for it."""
HYDRA_FOLDER = ".hydra"
_TAKE_A_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
_OUTSIDE_THE_OVERRIDES = (FROM, TRUST)
_LAUNCHER = "DIFFOPD_LAUNCHER"
"""In the environment of what a command starts: the command's process and arguments, as JSON. Launchers such
as joblib and submitit run the jobs of a sweep in processes that have no command line of ours."""

_typed: contextvars.ContextVar[tuple[str, ...] | None] = contextvars.ContextVar("typed", default=None)


@contextlib.contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, these are the arguments that somebody typed, whatever becomes of ``sys.argv``."""
    before, outer = _typed.set(tuple(arguments)), os.environ.get(_LAUNCHER)
    os.environ[_LAUNCHER] = json.dumps({"process": os.getpid(), "arguments": list(arguments)})
    try:
        yield
    finally:
        _typed.reset(before)
        os.environ.pop(_LAUNCHER)
        if outer is not None:
            os.environ[_LAUNCHER] = outer


def launched_by() -> int | None:
    """The process of the command whose launcher runs this job elsewhere; None in that process itself."""
    if _typed.get() is not None or _LAUNCHER not in os.environ:
        return None
    return int(json.loads(os.environ[_LAUNCHER])["process"])


def _given() -> Sequence[str] | None:
    """The arguments that somebody typed, here or where the job was launched."""
    given = _typed.get()
    if given is None and _LAUNCHER in os.environ:
        return json.loads(os.environ[_LAUNCHER])["arguments"]
    return given


def recorded_command(module: str, folder: Path) -> str:
    """The command of the run in progress, quoted for a shell; empty if there is none.

    A job of a sweep gets a command of its own. A run that takes its config from its own folder keeps the
    command that made it, which works without the folder, too.

    Args:
        module: What ``python -m`` runs.
        folder: The run's folder.
    """
    given = _given()
    if given is None:
        return ""
    arguments = _of_one_job(given)
    sources = [argument.removeprefix(FROM) for argument in arguments if argument.startswith(FROM)]
    if sources and _is_of(sources[-1], folder) and (before := _earlier(folder)):
        changed = [a for a in arguments if a not in before and not a.startswith(_OUTSIDE_THE_OVERRIDES)]
        return shlex.join([*before, *changed])
    return shlex.join(["python", "-m", module, *arguments])


def note_command(module: str, folder: Path) -> None:
    """Write the command where Hydra keeps a run's own settings, for a run that does not come to its end."""
    from diffopd.files.atomic import atomic_write_text  # brings torch

    hydra_folder = folder / HYDRA_FOLDER
    if hydra_folder.is_dir() and (text := recorded_command(module, folder)):
        atomic_write_text(hydra_folder / NOTE, f"{text}\n")


def _of_one_job(given: Sequence[str]) -> list[str]:
    """The arguments, with a sweep's values replaced by this job's."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return list(given)
    kept: list[str] = []
    arguments = iter(given)
    for argument in arguments:
        flag, separator, _ = argument.partition("=")
        if flag in _TAKE_A_VALUE:
            kept += [argument] if separator else [argument, next(arguments, "")]
        elif argument.startswith(_OUTSIDE_THE_OVERRIDES):
            kept.append(argument)
    if "-m" not in given and "--multirun" not in given:  # the sweep is a file's
        kept.append("hydra.mode=RUN")
    return [*kept, *HydraConfig.get().overrides.task]


def _is_of(source: str, folder: Path) -> bool:
    """Whether a folder, or a config in it, is of this run."""
    from diffopd.files.paths import expanded  # brings torch

    place = expanded(source).resolve()
    return folder.resolve() in (place, place.parent)


def _earlier(folder: Path) -> list[str]:
    """Words of the command that an earlier start of the run in this folder has recorded; none if none has."""
    from diffopd.run.finished import (
        read_finished,  # brings torch, which is not there before a config is checked
    )

    finished = read_finished(folder)
    text = str(finished.recipe.get("command", "")) if finished else ""
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        return shlex.split(text or (folder / HYDRA_FOLDER / NOTE).read_text(encoding="utf-8"))
    return []
