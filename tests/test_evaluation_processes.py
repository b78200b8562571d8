"""``diffopd.evaluate`` in several processes, and killed in the middle: the same results to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffopd.host.signals import INTERRUPTED
from support import copies
from support.slow import EXHAUSTIVE

SOURCE = str(Path(__file__).parents[1] / "src")
SMALL = (
    "benchmark.sampler.num_steps=8",
    "benchmark.tasks.composition.num_prompts=13",
    "benchmark.tasks.ocr.num_prompts=3",
    "benchmark.tasks.aesthetic.num_prompts=7",
    "benchmark.held_out.frechet.reference.number=40",
    "check_scorers=false",
    "num_threads=1",
    "device=cpu",
    "save_images=true",
    "batch_size=4",
)
MODULE = ("-m", "diffopd.evaluate")
KILLED = str(Path(__file__).parent / "support" / "evaluation_killed.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *MODULE)


def start(root: Path, *overrides: str, program=MODULE, **environment) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, *SMALL, *overrides, f"paths.root={root}"],
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(root: Path, *overrides: str) -> str:
    """To its end, in copies of this process: what it leaves and shows is what is compared."""
    result = copies.run(root, "evaluate", *SMALL, *overrides, f"paths.root={root}")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def contents(root: Path) -> dict[str, bytes]:
    """Results, sheet and images of the one evaluation below ``root``."""
    (results,) = root.rglob("results.json")
    folder = results.parent
    pictures = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
    return {"results.json": results.read_bytes(), **pictures}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    run(root)
    found = contents(root)
    assert len(found) == 13 + 3 + 7 + 2
    return found


@pytest.mark.slow
def test_any_number_of_processes_leaves_the_same_files(expected, tmp_path):
    shown = run(tmp_path, "devices=3")
    assert contents(tmp_path) == expected
    assert shown.count("not trained on: Fréchet distance ↓") == 1  # one process tells


@pytest.mark.slow
def test_processes_that_torchrun_starts_leave_the_same_files(expected, tmp_path):
    process = start(tmp_path, program=TORCHRUN)
    shown, _ = process.communicate(timeout=900)
    assert process.returncode == 0, shown
    assert contents(tmp_path) == expected
    assert shown.count("not trained on: Fréchet distance") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "number", "code"),
    [
        pytest.param(1, signal.SIGKILL, -signal.SIGKILL, marks=EXHAUSTIVE),
        (2, signal.SIGKILL, -signal.SIGKILL),
        pytest.param(2, signal.SIGTERM, INTERRUPTED, marks=EXHAUSTIVE),
    ],
    ids=["1-kill", "2-kill", "2-term"],
)
def test_after_a_signal_the_same_command_resumes(expected, tmp_path, devices, number, code):
    settings = (f"devices={devices}", "benchmark.name=mini")
    process = start(tmp_path, *settings, program=(KILLED,), SIGNAL=str(int(number)))
    shown, _ = process.communicate(timeout=400)  # returns when the processes it started are gone, too
    assert process.returncode == code, shown
    assert shown.count("interrupted: SIGTERM; ") == (number == signal.SIGTERM)
    assert "Traceback" not in shown
    (folder,) = (path.parent for path in tmp_path.rglob("made_from.json"))
    assert not (folder / "results.json").exists()
    done = list(tmp_path.rglob("records/*/*.safetensors"))
    assert 1 <= len(done) <= devices
    kept = [
        folder / "images" / file.parent.name / f"{index:05d}.png"
        for file in done
        for first, number in [map(int, file.stem.split("_"))]
        for index in range(first, first + number)
    ]
    times = [path.stat().st_mtime_ns for path in kept]
    run(tmp_path, f"devices={3 - devices}", "benchmark.name=mini")  # as many processes as there are now
    assert contents(tmp_path) == expected
    assert [path.stat().st_mtime_ns for path in kept] == times


@pytest.mark.slow
def test_a_mistake_is_told_once_by_several_processes(tmp_path):
    mistake = ("devices=2", "adapter_path=someone/absent_adapter", "debug=false", f"paths.root={tmp_path}")
    result = copies.run(tmp_path, "evaluate", *SMALL, *mistake)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.count("config error: ") == 1
    assert "Traceback" not in result.stderr
