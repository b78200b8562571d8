"""The entry point as users call it: one process, and two that equal it."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from diffopd.checkpoint import read_checkpoint
from support import copies, programs
from support.slow import EXHAUSTIVE
from support.tiny_runs import relative_distance

SMALL = {
    "mopd_sde": (
        "reward=picture_quality",
        "phase.score_every_n_rounds=1",
        "data.tasks.ocr.prompts_per_round=4",
    ),
    "teacher_aesthetic": ("phase.num_timesteps=2", "phase.updates_per_round=1", "loss.kl_weight=0.1"),
}


@pytest.fixture
def train(world, tmp_path):
    """``train(experiment, *overrides) -> printed`` runs the command in ``tmp_path``."""

    def start(experiment, *overrides, run=programs.run):
        settings = [*world.overrides(experiment), *SMALL[experiment], "~report", *overrides]
        result = run(tmp_path, "train", f"+experiment={experiment}", *settings)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return start


@pytest.mark.parametrize("run", [copies.run, pytest.param(programs.run, marks=EXHAUSTIVE)])
def test_the_command_trains_and_leaves_what_a_run_leaves(train, tmp_path, run):
    printed = train("teacher_aesthetic", "trainer.max_epochs=1", "logger=default", run=run)
    assert "round 1/1" in printed
    folder = tmp_path / "runs" / "teacher_aesthetic" / "seed0"
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "metrics.csv",
        "checkpoints/round_000001/tensors.safetensors",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "lora/pytorch_lora_weights.safetensors",
    }
    assert expected <= made
    logged = OmegaConf.load(folder / "tensorboard" / "hparams.yaml")
    assert logged == OmegaConf.load(folder / "config.yaml")


@pytest.mark.slow
def test_two_processes_equal_one(train, tmp_path):
    """The same global batch: rows are drawn by their global index, gradients averaged once per update.

    Every phase in processes that are forked: tests/phase/test_ddp.py.
    """
    experiment, exact = "mopd_sde", "model.fused_blocks=fp32"  # in bf16 gradients differ by some 2e-3
    one = train(experiment, "run_id=one", exact, run=copies.run)
    two = train(
        *(experiment, "run_id=two", exact, "trainer=ddp", "trainer.accelerator=cpu", "trainer.num_threads=1")
    )
    assert one.count("round 2/2") == two.count("round 2/2") == 1, "only the first process reports"
    states = []
    for run_id in ("one", "two"):
        folder = tmp_path / "runs" / experiment / run_id / "checkpoints"
        states.append([read_checkpoint(folder / f"round_{r:06d}") for r in (1, 2)])
    for one_state, two_state in zip(*states, strict=True):
        assert one_state["global_step"] == two_state["global_step"]
    # After one update AdamW's first moment is a tenth of the clipped gradient.
    gradient_one, gradient_two = (flat(moments(state[0])) for state in states)
    assert gradient_one.norm() > 0
    assert relative_distance(gradient_two, gradient_one) < 1e-5
    # AdamW divides by the gradient's size, so rounding grows where gradients are tiny.
    adapter_one, adapter_two = (flat(list(state[1]["state_dict"].values())) for state in states)
    assert relative_distance(adapter_two, adapter_one) < 1e-5


def moments(state):
    (optimizer,) = state["optimizer_states"]
    return [entry["exp_avg"] for entry in optimizer["state"].values()]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])
