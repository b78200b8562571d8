"""A process that dies takes the others along in seconds, whoever started them and whatever they wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffopd.strategy.lifeline import GRACE
from support.slow import EXHAUSTIVE, slow_but

HERE = Path(__file__).parent
LAUNCHERS = {
    "own": ("-m", "job"),
    "torchrun": ("-m", "torch.distributed.run", "--nproc_per_node=2", str(HERE / "job.py")),
}
SECONDS = GRACE + 60
"""``GRACE`` is waited on purpose; a machine at work takes its time to end Python. Gloo waits half an hour."""


def run(folder: Path, launcher: str, how: str, who: int) -> tuple[subprocess.CompletedProcess[str], float]:
    """The job's end, and the seconds from a process's death to it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    places = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, *LAUNCHERS[launcher]],
        env=kept
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": places, "HOW": how, "WHO": str(who)}
        | {"FOLDER": str(folder), "TINY": str(HERE.parent / "callbacks" / "conftest.py")},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    ended = time.time()
    died = folder / "died"
    return result, ended - float(died.read_text()) if died.exists() else 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "how", "who"),
    [
        ("own", "raise", 1),
        pytest.param("own", "kill", 1, marks=EXHAUSTIVE),
        ("own", "kill", 0),
        ("torchrun", "kill", 1),
    ],
)
def test_the_others_end_with_it(tmp_path, launcher, how, who):
    result, seconds = run(tmp_path, launcher, how, who)
    assert result.returncode != 0
    assert seconds < SECONDS, result.stderr
    if how == "raise":
        first = result.stderr.index("Traceback")
        told = result.stderr.index("RuntimeError: out of luck")
        assert told > first
        assert "Traceback" not in result.stderr[first + len("Traceback") : told], "another one came first"
    elif launcher == "own" and who == 1:
        assert "process 1 of this run ended with signal 9" in result.stderr
    print(f"{launcher} {how} {who}: {seconds:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", slow_but(LAUNCHERS, "own"))
def test_a_training_that_goes_well_ends_well(tmp_path, launcher):
    result, _ = run(tmp_path, launcher, "live", 0)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["process 0 is done", "process 1 is done"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["round_000003"]
