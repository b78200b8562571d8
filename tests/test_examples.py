"""The files of ``examples/`` run as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(folder, *command):
    """A Python of its own in ``folder``, with nothing inherited but paths."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_example_has_a_test():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_file()} == {
        "notebook.ipynb",
        "own_reward.py",
        "own_sampler.py",
    }


def test_the_notebook_is_committed_without_outputs():
    assert NOTEBOOK["nbformat"] == 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = ["".join(cell["source"]) for cell in CELLS]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    program = "import json; names = {}; [exec(cell, names) for cell in json.load(open('cells.json'))]"
    told = run(tmp_path, "-c", program)
    assert "round 2/2" in told
    assert "\ncomposition: " in told
    assert len(list((tmp_path / "runs" / "evaluate" / "mini").iterdir())) == 2
    (exported,) = tmp_path.glob("*/student/pytorch_lora_weights.safetensors")
    assert exported.stat().st_size > 0


FEW = ["trainer.max_epochs=1", "trainer.num_threads=1", "trainer.accelerator=cpu"]


@pytest.mark.slow
def test_own_reward(tmp_path):
    few = ["data.tasks.aesthetic.prompts_per_round=2", "data.tasks.aesthetic.group_size=3"]
    told = run(tmp_path, EXAMPLES / "own_reward.py", *FEW, *few)
    assert "redness of the base: " in told
    assert "redness of student: " in told
    assert (tmp_path / "runs" / "redness" / "seed0" / "redness.png").is_file()


@pytest.mark.slow
def test_own_sampler(tmp_path):
    few = [f"data.tasks.{task}.prompts_per_round=2" for task in ("composition", "ocr", "aesthetic")]
    run(tmp_path, EXAMPLES / "own_sampler.py", *FEW, *few)
    folder = tmp_path / "runs" / "fading_noise" / "seed0"
    assert "own_sampler.FadingNoise" in (folder / "config.yaml").read_text()
    assert (folder / "fading_noise.png").is_file()
