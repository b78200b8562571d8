"""Several processes on one global batch equal one process: draws, samples, groups, gradients, update."""

from __future__ import annotations

import pytest
import torch

from diffopd.check import ConfigError
from diffopd.checkpoint import read_checkpoint
from support.recorded import distance, recorded, united
from support.tiny_runs import FORKED, relative_distance

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
SCORED = ("reward=picture_quality", "phase.score_every_n_rounds=1")
LOGGED = ("+reward=picture_quality", "phase.score_every_n_rounds=1")
"""For those that roll out to be scored alone."""
NFT = ("phase.num_timesteps=2", "phase.updates_per_round=1", "loss.kl_weight=0.1")
ONE_FAKE = ("phase.fake_updates_per_round=1",)
RUNS = {
    "mopd_sde": (*SCORED, "data.tasks.ocr.prompts_per_round=4", "sampler.num_steps=5"),
    "teacher_aesthetic": NFT,
    "guard_aesthetic": (
        *("phase.noise_window.size=3", "phase.updates_per_round=1"),
        "phase.micro_batch_size=2",  # of a process's three rows
    ),
    "mini_autoencoder": ("data.batch_size=4", "optimizer.weight_decay=0"),
    "mini_pretrain": ("data.batch_size=4", "phase.sign_share=0.5"),
}
SLOW_RUNS = {
    "mopd_ode": SCORED,
    "mopd_ppo": ("reward=picture_quality", "phase.round=two_pass"),
    "flow_opd": ("reward=picture_quality", "data.schedule=alternate"),
    "mopd_sft": (*SCORED, "phase.best_of_n=2", "phase.kl_weight=1"),
    "sft_pairs": (
        *LOGGED,
        *("data.prompts_per_round=4", "data.caption_key=[text,long]", "phase.num_timesteps=2"),
    ),
    "dreambooth_pairs": (*LOGGED, "data.prompts_per_round=4", "phase.num_class_pictures=19"),
    "pso_pairs": ("phase.num_timesteps=2", "data.prompts_per_round=4"),
    "offpolicy_pairs": LOGGED,
    "sft_assistant": LOGGED,
    "mopd_dmd": (*SCORED, *ONE_FAKE),
    "mopd_tdm": (*SCORED, *ONE_FAKE),
    "ram_aesthetic": ("phase.num_timesteps=2", "phase.updates_per_round=1"),
    "rvm_aesthetic": ("phase.num_timesteps=2", "phase.updates_per_round=1", "loss.residual=old"),
    "few_step_aesthetic": (*NFT[1:2], "phase.num_timesteps=2", "regulariser.fake_updates_per_round=1"),
    "sopd_aesthetic regulariser=distribution": (*SCORED, "regulariser.fake_updates_per_round=1"),
    "self_opd_aesthetic": ("sampler.num_steps=4", "phase.state_weights=[2,1,0]"),
    "online_dpo_aesthetic": (
        *("phase.num_timesteps=2", "phase.updates_per_round=1"),
        *("loss.beta=1", "loss.keep=1"),  # a pair is nearly alike: its difference is rounded
    ),
    "sopd_aesthetic phase.states_from=teacher": SCORED,
    "multi_guard": ("reward=picture_quality", "phase.updates_per_round=1"),
    "dopsd": ("teacher.decay=0.75",),
    "dopsd teacher.weights=frozen": (),
    "dopsd teacher.weights=live": (),
    "dopsd adapter=full": ("optimizer.lr=1e-3",),
    "dopsd@z_image_turbo": ("teacher.decay=0.75",),
    "mopd_sde estimator=log_ratio": ("reward=picture_quality",),
    "mopd_sde estimator=ppo_detached": ("reward=picture_quality",),
}
FOUR = {
    "mopd_sde": SCORED,
    "teacher_aesthetic": NFT,
    "guard_aesthetic": RUNS["guard_aesthetic"],
}
UNLIKE = ("train/time/", "train/memory/", "train/communication/", "train/drift/latent_")
"""Metrics that need not agree: of the machine, and of a process's own share."""


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(world, tmp_path, monkeypatch, name):
    compare(world, tmp_path, monkeypatch, name, 2, RUNS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_RUNS)
def test_two_processes_equal_one_in_every_phase(world, tmp_path, monkeypatch, name):
    compare(world, tmp_path, monkeypatch, name, 2, SLOW_RUNS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_four_processes_equal_one(world, tmp_path, monkeypatch, name):
    tasks = ("composition", "ocr", "aesthetic") if name == "mopd_sde" else ("aesthetic",)
    more = tuple(f"data.tasks.{task}.prompts_per_round=4" for task in tasks)
    compare(world, tmp_path, monkeypatch, name, 4, (*FOUR[name], *more))


def compare(world, tmp_path, monkeypatch, name, processes, settings):
    """Norm-wise to 1e-5: batches of other shapes are rounded otherwise."""
    name, *chosen = name.split()
    settings = (*chosen, *settings, "trainer.max_epochs=1")
    runs = {}
    for number in (1, processes):
        several = (*FORKED, f"trainer.devices={number}") if number > 1 else ()
        experiment = world.build(name, tmp_path / str(number), *settings, *several)
        runs[number] = recorded(monkeypatch, experiment, tmp_path / f"recorded{number}")
        assert len(runs[number]) == number
    (one,), several = runs[1], runs[processes]

    draws = united(several, "draws")
    assert draws.keys() == one["draws"].keys()
    assert all(torch.equal(draws[key], value) for key, value in one["draws"].items())
    assert distance(united(several, "states"), one["states"]) < 1e-5
    for found in several:
        for mine, expected in zip(found["advantages"], one["advantages"], strict=True):
            assert mine == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert len(found["gradients"]) == len(one["gradients"]) > 0
        for mine, expected in zip(found["gradients"], one["gradients"], strict=True):
            assert expected.norm() > 0
            assert relative_distance(mine, expected) < 1e-5
    first, second = (
        read_checkpoint(tmp_path / str(n) / "checkpoints" / "round_000001") for n in (1, processes)
    )
    weights = [torch.cat([v.flatten().float() for v in c["state_dict"].values()]) for c in (second, first)]
    assert relative_distance(*weights) < 1e-5
    logged = [
        {k: v for k, v in run[0]["logged"].items() if not k.startswith(UNLIKE)} for run in (several, [one])
    ]
    assert logged[0] == pytest.approx(logged[1], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mini_pretrain", ["data.batch_size=3"], r"data\.batch_size=3 must be a multiple of the number of"),
        ("teacher_ocr", ["data.tasks.ocr.prompts_per_round=3"], r"prompts_per_round=3 must be a multiple"),
        ("gradient_variance", [], "phase=gradient_variance measures in one process; set trainer=default"),
        ("mopd_ode", ["trainer.strategy=ddp"], r"trainer\.strategy=ddp is not one of this project's"),
        ("mopd_ode", ["trainer=default", "trainer.devices=2"], r"trainer\.devices=2 needs a strategy"),
    ],
)
def test_layouts_that_cannot_work_are_refused(world, tmp_path, name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        world.build(name, tmp_path, "trainer=ddp", *overrides)


@pytest.mark.parametrize(
    ("environment", "overrides", "message"),
    [
        (
            {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "0"},
            ("trainer=ddp",),
            r"torchrun started 4 processes, but trainer\.devices=2 times trainer\.num_nodes=1 are 2",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "0"},
            (),
            r"torchrun started 4 processes, but trainer\.devices=1 times trainer\.num_nodes=1 are 1",
        ),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "opd"}, ("trainer=ddp",), "are started by srun"),
    ],
)
def test_as_many_processes_as_the_launcher_started(
    world, tmp_path, monkeypatch, environment, overrides, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        world.build("mopd_ode", tmp_path, *overrides)
