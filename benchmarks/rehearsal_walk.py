"""Take the steps one by one; what is done stays done, and what fails is told without ending the walk."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rehearsal_measured import Measured, folder_bytes, measured
from rehearsal_steps import HERE, PYTHON, NotLeftError, Step

from diffopd.files.sealed import read_sealed_json, write_sealed_json

STATE = "state.json"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
TAIL = 12
"""Lines of a failed command's output that are kept."""


class OtherWalkError(ValueError):
    """A folder that holds a rehearsal with other settings."""


def walk(
    steps: Sequence[Step],
    folder: Path,
    about: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    commit: str,
    limit: float,
) -> Iterator[dict[str, Any]]:
    """Take every step that is not done; a step is repeated if one that it needs was.

    Args:
        steps: In order.
        folder: Where everything is made; the state file lies in it.
        about: What makes the walk; a folder holds one.
        environment: Of the commands.
        commit: Of the code, noted with each step.
        limit: Seconds that a command may take.

    Yields:
        A record of each step.

    Raises:
        OtherWalkError: If the folder holds another walk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = read_state(folder, about)
    done: dict[str, Any] = state["steps"]
    results: dict[str, str] = {}
    fresh: set[str] = set()
    for step in steps:
        lacking = [need for need in step.needs if results[need] != OK]
        earlier = done.get(step.name, {})
        if not lacking and earlier.get("result") == OK and not fresh & set(step.needs):
            record = earlier
        else:
            done.pop(step.name, None)
            write_sealed_json(folder / STATE, state)  # an end in the middle must not leave it as done
            if lacking:
                note = f"needs {', '.join(lacking)}"
                record = {"name": step.name, "title": step.title, "result": SKIPPED, "note": note}
            else:
                fresh.add(step.name)
                record = {**take(step, folder, environment, limit), "commit": commit}
            done[step.name] = record
            write_sealed_json(folder / STATE, state)
        results[step.name] = record["result"]
        yield record


def read_state(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier walk in this folder has done.

    Raises:
        OtherWalkError: If it was another one.
        DamagedFileError: If the file that says it is not what was written.
    """
    file = folder / STATE
    if not file.is_file():
        return {"about": dict(about), "steps": {}}
    state = read_sealed_json(file, ("about", "steps"))
    if state["about"] != dict(about):
        raise OtherWalkError(
            f"{folder} holds a rehearsal with {state['about']}, this one has {dict(about)}; "
            "give another --folder, or remove that one"
        )
    return state


def take(step: Step, folder: Path, environment: Mapping[str, str], limit: float) -> dict[str, Any]:
    """Run one step's command and judge what it left.

    Args:
        step: The step.
        folder: Of the walk.
        environment: Of the command.
        limit: Seconds that it may take.
    """
    for path in step.clears:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    log = folder / "logs" / f"{step.name}.log"
    log.parent.mkdir(exist_ok=True)
    before, started = folder_bytes(folder), time.time()
    command = [sys.executable if part == PYTHON else part for part in step.command]
    found = measured(command, log, environment=environment, limit=limit, kill_when=step.kill_when)
    output = log.read_text(encoding="utf-8", errors="replace")
    result, note = judged(step, found, started, output)
    record = {"name": step.name, "title": step.title, "result": result, "note": note, **asdict(found)}
    told = [part.replace(str(HERE), "benchmarks") for part in step.command]
    record |= {"left": folder_bytes(folder) - before, "command": told}
    if result == FAILED:
        record["tail"] = output.splitlines()[-TAIL:]
    return record


def judged(step: Step, found: Measured, started: float, output: str) -> tuple[str, str]:
    """Whether a step went well, and what to note.

    Args:
        step: The step.
        found: How its command ended.
        started: When it began, in seconds since the epoch.
        output: What it printed.
    """
    if found.over_limit:
        return FAILED, f"ended after {found.seconds:.0f} s, see --limit"
    if step.kill_when is not None and found.code != -signal.SIGKILL:
        return FAILED, f"ended by itself with code {found.code} before it could be killed"
    if step.kill_when is None and found.code not in step.accepted:
        return FAILED, f"exit code {found.code}"
    missing = [path for path in step.leaves if not path.exists()]
    if missing:
        return FAILED, f"left no {', '.join(map(str, missing))}"
    try:
        note = step.check(started, output) if step.check else ""
    except NotLeftError as error:
        return FAILED, str(error)
    return OK, note or step.accepted.get(found.code, "")


def environment_of(shim: Path | None) -> dict[str, str]:
    """Of the commands: nothing is fetched, lines appear at once.

    Args:
        shim: Folder to put on the path of modules, if any.
    """
    changed = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if shim is not None:
        paths = [str(shim), *filter(None, [os.environ.get("PYTHONPATH")])]
        changed["PYTHONPATH"] = os.pathsep.join(paths)
    return {**os.environ, **changed}
