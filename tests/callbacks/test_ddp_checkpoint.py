"""Two processes: one checkpoint, and a resumed run equal to an uninterrupted one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffopd.checkpoint import read_checkpoint

SCRIPT = """
import importlib.util, os, signal, sys
from lightning.pytorch import Trainer
from diffopd.callbacks import RoundCheckpoint
from diffopd.checkpoint import SafetensorsCheckpointIO, latest_valid_checkpoint

conftest, folder, signal_in = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location("tiny", conftest)
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
phase = tiny.TinyPhase()
second = os.environ.get("LOCAL_RANK") == "1"
phase.before_round = lambda i: os.kill(os.getpid(), signal.SIGINT) if second and i == signal_in else None
callback = RoundCheckpoint(folder=folder, every_n_rounds=100, keep_last=5, keep_every_n_rounds=None)
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=6, logger=False, callbacks=[callback],
    plugins=[SafetensorsCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False, default_root_dir=folder,
)
trainer.fit(phase, ckpt_path=latest_valid_checkpoint(folder))
assert callback.interrupted == (signal_in >= 0), callback.interrupted
"""


def run(tmp_path: Path, folder: Path, signal_in: int) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, Path(__file__).with_name("conftest.py"), folder, str(signal_in)]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_run_resumes(tmp_path):
    assert run(tmp_path, tmp_path / "whole", -1) == ["round_000006"]
    assert run(tmp_path, tmp_path / "cut", 2) == ["round_000003"]
    assert run(tmp_path, tmp_path / "cut", -1) == ["round_000003", "round_000006"]
    whole, resumed = (read_checkpoint(tmp_path / name / "round_000006") for name in ("whole", "cut"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert whole["loops"] == resumed["loops"]
