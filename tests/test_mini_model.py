"""`make mini-model` as users call it: four steps that find each other, none done twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
STEPS = ("mini_autoencoder", "mini_pretrain", "mini_signs", "mini_more_signs")
SMALL = (
    "trainer.accelerator=cpu trainer.num_threads=1 trainer.max_epochs=1 "
    "data.num_drawings=8 data.batch_size=2 data.batches_per_round=1"
)


@pytest.fixture
def mini_model(tmp_path):
    """``mini_model(settings)`` in ``tmp_path``, with the environment of the tests."""

    def make(settings: str) -> str:
        command = ["make", "-f", MAKEFILE, "-o", "install", "mini-model"]
        result = subprocess.run(
            [*command, f"BIN={Path(sys.executable).parent}", f"ARGS={SMALL} {settings}"],
            cwd=tmp_path,
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return make


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_one_command_makes_the_model_and_repeated_leaves_it_alone(mini_model, tmp_path):
    first = mini_model("seed=3")
    folder = tmp_path / "runs" / STEPS[-1] / "seed3" / "pipeline"
    assert (folder / "model_index.json").is_file()
    last = first.splitlines()[-1]
    assert f"python -m diffopd.sample model.path={folder} " in last

    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert {path.relative_to(tmp_path).parts[1] for path in weights} == set(STEPS)
    again = mini_model("seed=3")
    assert again.count("already finished: ") == len(STEPS)
    assert again.splitlines()[-1] == last
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == weights
