"""Walk every command once at the true size of a model, with random weights, before real ones are at stake.

Builds a pipeline of the released architecture (weights are random and written piece by piece), three random
teachers and a few prompts, then runs doctor, training, kill -9, resume, sample, evaluate, every export and
the stock library, each in a process of its own, and measures time, memory and disk::

    python benchmarks/rehearsal.py --model sd3_5_medium --dry-run    # what it needs
    python benchmarks/rehearsal.py --model sd3_5_medium --shim       # on a CPU
    python benchmarks/rehearsal.py --model tiny                      # the same steps in minutes

The same command goes on after an end in the middle: steps that are done are not repeated.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent))
from measured import commit
from rehearsal_estimate import Estimate
from rehearsal_measured import folder_bytes
from rehearsal_shim import install
from rehearsal_sizes import NAMES
from rehearsal_steps import Walk
from rehearsal_table import page, table
from rehearsal_walk import FAILED, OK, OtherWalkError, environment_of, walk

from diffopd.files.atomic import atomic_write_json, replacing
from diffopd.files.sealed import DamagedFileError

STOPPED = 75
"""Exit code after SIGTERM, as of the package's own commands: the same command resumes."""
NO_ROOM = 2
"""Exit code where disk or folder do not allow it."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=NAMES, required=True)
    parser.add_argument("--with-t5", action="store_true", help="build and use the third text encoder")
    parser.add_argument(
        "--shim", action="store_true", help="every linear layer reads only its first 64 inputs"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--folder", type=Path, help="where everything is made; default runs/rehearsal/<model>"
    )
    parser.add_argument("--output", type=Path, default=Path("experiments/rehearsal"), help="of the table")
    parser.add_argument("--limit", type=float, default=7200, help="seconds that one step may take")
    parser.add_argument("--dry-run", action="store_true", help="say what is needed, from shapes alone")
    given = parser.parse_args(arguments)
    given.folder = given.folder or Path("runs/rehearsal") / given.model
    return given


def lacking(estimate: Estimate, folder: Path) -> str:
    """What of the disk is missing, in a sentence; empty if it is enough."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free + folder_bytes(folder)
    if free >= estimate.disk:
        return ""
    return (
        f"{folder} needs {estimate.disk / 1e9:.1f} GB of disk and has {free / 1e9:.1f} GB; "
        "give a --folder with more room"
    )


def write(output: Path, about: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """The table and every record."""
    output.mkdir(parents=True, exist_ok=True)
    atomic_write_json(output / "rehearsal.json", {**about, "steps": list(records)})
    with replacing(output / "rehearsal.md") as temporary:
        temporary.write_text(page(about, records), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the steps; 0 if all went well, 1 if one did not, 2 if there is no room for them."""
    given = parse(arguments)
    estimate = Estimate.of(given.model, with_t5=given.with_t5)
    print(estimate.markdown(), flush=True)
    if given.dry_run:
        return 0
    available = psutil.virtual_memory().available
    if available < estimate.memory:
        print(
            f"note: {available / 1e9:.1f} GB of memory are free; a step may be ended by the system",
            flush=True,
        )
    if problem := lacking(estimate, given.folder):
        print(problem, file=sys.stderr)
        return NO_ROOM
    same = {"model": given.model, "with_t5": given.with_t5, "shim": given.shim, "device": given.device}
    command = ["python", "benchmarks/rehearsal.py", *(sys.argv[1:] if arguments is None else arguments)]
    about = {"command": shlex.join(command), **same, "cores": os.cpu_count(), "torch": torch.__version__}
    steps = Walk(given.model, given.folder, given.with_t5, given.device).steps()
    records: list[dict[str, Any]] = []
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STOPPED))  # the command under way ends too
    with tempfile.TemporaryDirectory() as temporary:
        environment = environment_of(install(Path(temporary)) if given.shim else None)
        try:
            for record in walk(
                steps, given.folder, same, environment=environment, commit=commit(), limit=given.limit
            ):
                records.append(record)
                write(given.output, about, records)
                print(f"{record['title']}: {record['result']} {record['note']}".rstrip(), flush=True)
                if record["result"] == FAILED:
                    print("\n".join(f"    {line}" for line in record.get("tail", ())), flush=True)
        except (OtherWalkError, DamagedFileError) as error:
            print(error, file=sys.stderr)
            return NO_ROOM
    print(f"\n{table(records)}", flush=True)
    return int(any(record["result"] != OK for record in records))


if __name__ == "__main__":
    sys.exit(main())
