"""A backbone in shards trains as a whole one does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from diffopd.check import ConfigError
from diffopd.checkpoint import read_checkpoint
from diffopd.checkpoint.tensor_files import INDEX
from support.interruption import ROUNDS, final_state
from support.pictures import picture_file
from support.recorded import recorded
from support.tiny_runs import FORKED, relative_distance

SHARDED = ("trainer=sharded", *FORKED[1:])
OPD = ("reward=picture_quality", "phase.score_every_n_rounds=1", "phase.conflict_every_n_rounds=1")
RUNS = {
    "mopd_sde": (*OPD, "sampler.num_steps=5"),
}
SLOW_RUNS = {
    "guard_aesthetic": ("phase.noise_window.size=3", "phase.updates_per_round=1", "loss.kl_weight=0.1"),
    "mopd_ode": ("reward=picture_quality", "model.gradient_checkpointing=true"),
    "mopd_sde routing=automatic": (*OPD, "routing.num_prompts=1"),
    "teacher_aesthetic": ("phase.num_timesteps=2", "phase.updates_per_round=1", "loss.kl_weight=0.1"),
    "mopd_tdm": ("reward=picture_quality", "phase.fake_updates_per_round=1"),
    "mopd_sft": ("reward=picture_quality",),
}

CONFLICT = ("train/conflict/", "train/gradient_share/")


def build(world, folder, name, *settings):
    name, *chosen = name.split()
    return world.build(name, folder, *chosen, *settings)


def compare(world, tmp_path, monkeypatch, name, settings):
    settings = (*settings, "trainer.max_epochs=1")
    (one,) = recorded(monkeypatch, build(world, tmp_path / "one", name, *settings), tmp_path / "noted1")
    experiment = build(world, tmp_path / "two", name, *settings, *SHARDED)
    two = recorded(monkeypatch, experiment, tmp_path / "noted2")
    assert len(two) == 2
    adapters = {n: p for n, p in experiment.phase.model.transformer.named_parameters() if ".lora_" in n}
    whole = sum(p.numel() * p.element_size() for p in adapters.values())  # adapters are not divided
    assert sum(found["held"] - whole for found in two) == one["held"] - whole
    assert max(found["held"] - whole for found in two) < 0.55 * (one["held"] - whole)
    share = 1 if adapters else 0.55  # of the optimizer's means
    assert max(found["means"] for found in two) <= share * one["means"]
    for found in two:
        assert len(found["gradients"]) == len(one["gradients"]) > 0
        for mine, expected in zip(found["gradients"], one["gradients"], strict=True):
            assert expected.norm() > 0
            assert relative_distance(mine, expected) < 1e-5
        compared = {k: v for k, v in one["logged"].items() if k.startswith(CONFLICT)}
        assert {name: found["logged"][name] for name in compared} == pytest.approx(compared, abs=1e-4)
    first, second = (read_checkpoint(tmp_path / n / "checkpoints" / "round_000001") for n in ("one", "two"))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    weights = [torch.cat([v.flatten() for v in c["state_dict"].values()]) for c in (second, first)]
    assert relative_distance(*weights) < 1e-5


@pytest.mark.parametrize("name", RUNS)
def test_shards_have_the_gradients_of_the_whole(world, tmp_path, monkeypatch, name):
    compare(world, tmp_path, monkeypatch, name, RUNS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_RUNS)
def test_shards_have_the_gradients_of_the_whole_in_every_phase(world, tmp_path, monkeypatch, name):
    compare(world, tmp_path, monkeypatch, name, SLOW_RUNS[name])


@pytest.mark.slow
def test_all_weights_and_pictures_of_several_shapes(world, tmp_path, monkeypatch):
    """Of three wide pictures and a high one, one process has two shapes and the other has one."""
    for number, (height, width) in enumerate([(60, 100)] * 3 + [(100, 60)]):
        name = picture_file(tmp_path / "pairs", number, height, width).path
        Path(name).with_suffix(".txt").write_text(f"thing {number}")
    settings = (f"data.path={tmp_path / 'pairs'}", "data.bucket_step=16", "data.prompts_per_round=4")
    settings += ("teacher.decay=0.75", "optimizer.lr=1e-3")
    compare(world, tmp_path, monkeypatch, "dopsd adapter=full", settings)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(world, tmp_path):
    """Checkpoints are of one format: adapters, whole, by the first process; ``ddp`` resumes them, too."""
    settings = ("reward=picture_quality",)
    plan = (("whole", 4, SHARDED), ("cut", 2, SHARDED), ("cut", 4, SHARDED))
    plan += (("across", 2, SHARDED), ("across", 4, FORKED))
    for folder, rounds, strategy in plan:
        build(
            world, tmp_path / folder, "mopd_sde", *settings, *strategy, f"trainer.max_epochs={rounds}"
        ).fit()
    whole, resumed, across = (final_state(tmp_path / name) for name in ("whole", "cut", "across"))
    assert whole.keys() == resumed.keys() == across.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
        torch.testing.assert_close(across[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_whole_weights_in_shards_resume_and_are_exported(world, tmp_path):
    """Bit for bit; in one process, too, but for rounding. What is exported is the average, in one piece."""
    settings = ("adapter=full", "optimizer.lr=1e-3", "phase.ema.update_interval=1")
    settings += ("callbacks=[default,pipeline_export]", "callbacks.round_checkpoint.largest_file_gib=1e-4")
    settings += (f"trainer.max_epochs={ROUNDS}", f"callbacks.round_checkpoint.keep_last={ROUNDS}")
    for folder, strategy in (("whole", SHARDED), ("cut", SHARDED), ("across", ())):
        if folder != "whole":  # as if it had ended after two rounds
            second = Path("checkpoints") / "round_000002"
            shutil.copytree(tmp_path / "whole" / second, tmp_path / folder / second)
        build(world, tmp_path / folder, "sft_pairs", *settings, *strategy).fit()
    whole, resumed, across = (final_state(tmp_path / name) for name in ("whole", "cut", "across"))
    assert whole.keys() == resumed.keys() == across.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
        torch.testing.assert_close(across[name], value, rtol=1e-3, atol=1e-5)
    newest = tmp_path / "whole" / "checkpoints" / f"round_{ROUNDS:06d}"
    assert (newest / INDEX).is_file()
    for folder in (
        tmp_path / "whole" / "adapter",
        newest / "adapter",
        tmp_path / "whole" / "pipeline" / "transformer",
    ):
        found = SD3Transformer2DModel.from_pretrained(folder).state_dict()
        assert found
        for name, value in found.items():
            assert torch.equal(whole[f"state_dict.model.backbones._held.average.{name}"], value), name


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("mini_pretrain", "seed=0", "trainer=sharded divides a frozen backbone, which this phase does not"),
        ("mopd_ode", "model.compile=true", "trainer=sharded with model.compile=true is not supported"),
    ],
)
def test_what_cannot_be_sharded_is_refused(world, tmp_path, name, override, message):
    with pytest.raises(ConfigError, match=message):
        world.build(name, tmp_path, "trainer=sharded", override)
