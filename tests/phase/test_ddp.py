"""Two processes on one global batch equal one process."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import randomise, relative_distance

from diffopd.checkpoint import read_checkpoint

RUNS = {
    "mopd_sde": (
        "reward=picture_quality",
        "phase.score_every_n_rounds=1",
        "data.tasks.ocr.prompts_per_round=4",
    ),
    "teacher_aesthetic": ("phase.num_timesteps=2", "phase.updates_per_round=1", "loss.kl_weight=0.1"),
}
FORKED = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.strategy=ddp_fork")


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_gradients_of_one(world, tmp_path, name):
    """Gradients through AdamW's first moment, a tenth of the clipped gradient after one update."""
    for folder, processes in (("one", ()), ("two", FORKED)):
        settings = (*RUNS[name], *processes, "trainer.max_epochs=1")
        experiment = world.build(name, tmp_path / folder, *settings)
        randomise(experiment.phase.model, "student", 7)
        experiment.fit()
        assert experiment.trainer.world_size == (2 if processes else 1)
    one, two = (read_checkpoint(tmp_path / f / "checkpoints" / "round_000001") for f in ("one", "two"))
    assert moments(one).norm() > 0
    assert relative_distance(moments(two), moments(one)) < 1e-5
    assert relative_distance(weights(two), weights(one)) < 1e-5


def moments(checkpoint):
    (optimizer,) = checkpoint["optimizer_states"]
    return torch.cat([entry["exp_avg"].flatten() for entry in optimizer["state"].values()])


def weights(checkpoint):
    return torch.cat([value.flatten() for value in checkpoint["state_dict"].values()])
