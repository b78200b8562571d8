"""Several processes as users start them: by the command, in a sweep, by torchrun and by SLURM."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest
import torch

from diffopd.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.num_threads=1", "~report")


@pytest.fixture(scope="module")
def settings(world):
    return ["+experiment=mopd_sde", *world.overrides("mopd_sde"), "reward=picture_quality", *TWO]


def start(folder, arguments, **environment):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    printed = [process.communicate(timeout=900) for process in processes]
    for process, (out, err) in zip(processes, printed, strict=True):
        assert process.returncode == 0, out + err
    return "".join(out for out, _ in printed)


def lines(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [line for line in csv.DictReader(file) if line["train/loss/opd"]]


def log_of(folder):
    return (folder / "train.log").read_text().splitlines()


def test_torchrun_writes_once_and_goes_on(settings, tmp_path):
    command = ["torch.distributed.run", "--nproc_per_node=2", "-m", "diffopd.train", *settings]
    printed = finish(start(tmp_path, [*command, "trainer.max_epochs=1"]))
    folder = tmp_path / "runs" / "mopd_sde" / "seed0"
    assert printed.count("round 1/1") == 1
    assert sum("torch threads" in line for line in log_of(folder)) == 1
    printed = finish(start(tmp_path, command))
    assert printed.count("round 2/2") == 1
    assert sum("resuming from" in line for line in log_of(folder)) == 1
    assert [line["step"] for line in lines(folder)] == ["0", "1"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "round_000001",
        "round_000002",
    ]


def test_slurm_writes_once(settings, tmp_path):
    """What srun gives its tasks, on one machine."""
    tasks = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "opd",
        "SLURM_NODELIST": "127.0.0.1",
    }
    processes = [
        start(tmp_path, ["diffopd.train", *settings], **tasks, SLURM_PROCID=rank, SLURM_LOCALID=rank)
        for rank in ("0", "1")
    ]
    printed = finish(*processes)
    folder = tmp_path / "runs" / "mopd_sde" / "seed0"
    assert printed.count("round 2/2") == 1
    assert sum("torch threads" in line for line in log_of(folder)) == 1
    assert [line["step"] for line in lines(folder)] == ["0", "1"]


def test_a_sweep_trains_each_job_once(settings, tmp_path):
    printed = finish(start(tmp_path, ["diffopd.train", "-m", *settings, "optimizer.lr=1e-3,2e-3"]))
    assert printed.count("round 2/2") == 2
    folders = sorted(file.parent for file in (tmp_path / "runs").rglob("metrics.csv"))
    assert len(folders) == 2
    weights = []
    for folder in folders:
        assert [line["step"] for line in lines(folder)] == ["0", "1"]
        assert all(float(line["train/cost/images"]) == 6 for line in lines(folder))
        state = read_checkpoint(folder / "checkpoints" / "round_000002")["state_dict"]
        weights.append(torch.cat([value.flatten() for value in state.values()]))
    assert not torch.equal(*weights)
