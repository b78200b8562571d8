"""A training that is interrupted and resumed is the training that was not, bit for bit."""

from __future__ import annotations

import pytest
import torch

from diffopd.checkpoint import latest_valid_checkpoint
from support.interruption import ROUNDS, Interrupt, final_state, metrics

STUDENT = ("reward=picture_quality", "phase.score_every_n_rounds=3", "phase.ema.update_interval=2")
DRAWINGS = ("phase.warmup_steps=1", "data.batches_per_round=2")
FEW_STATES = ("sampler.num_steps=4", "phase.state_weights=[2,1,0]")
RUNS = {
    "mopd_sde": ("mopd_sde", *STUDENT, "sampler.num_steps=4"),
    "teacher_aesthetic": ("teacher_aesthetic",),
    "guard_aesthetic": ("guard_aesthetic", "phase.noise_window.size=3"),
    "mini_pretrain": ("mini_pretrain", *DRAWINGS),
    "mini_autoencoder": ("mini_autoencoder", *DRAWINGS),
}
MORE_RUNS = {
    "flow_grpo": ("guard_aesthetic", "loss=flow_grpo"),
    "ram": ("ram_aesthetic", "phase.num_timesteps=2", "phase.updates_per_round=2"),
    "rvm": ("rvm_aesthetic", "phase.num_timesteps=2", "phase.updates_per_round=1", "loss.anchor=old"),
    "few_step": ("few_step_aesthetic", "phase.num_timesteps=2", "phase.updates_per_round=2"),
    "distribution": ("mopd_ode", *STUDENT, "sampler.num_steps=3", "regulariser=distribution"),
    "self_opd": ("self_opd_aesthetic", *FEW_STATES),
    "online_dpo": ("online_dpo_aesthetic", "phase.num_timesteps=2", "phase.updates_per_round=2"),
    "teacher_states": ("mopd_ode", *STUDENT, "phase.states_from=teacher"),
    "balance": (
        "mopd_ode",
        *STUDENT,
        "balance=remaining_gap",
        "balance.update_every_n_rounds=1",
        "balance.num_first=2",
    ),
    "schedule": ("mopd_ode", *STUDENT, "phase.lr_schedule=cosine", "phase.warmup_rounds=1"),
    "automatic": ("mopd_ode", *STUDENT, "routing=automatic", "routing.num_prompts=2"),
    "log_ratio": ("mopd_sde", *STUDENT, "estimator=log_ratio"),
    "ppo": ("mopd_ppo", *STUDENT),
    "ppo_detached": ("mopd_ppo", *STUDENT, "estimator=ppo_detached"),
    "dmd": ("mopd_dmd", *STUDENT, "phase.fake_updates_per_round=2"),
    "tdm": (
        *("mopd_tdm", *STUDENT),
        *("phase.midpoint=random", "phase.tau_window=to_noise", "phase.num_segments=10"),
    ),
    "dopsd": ("dopsd", "teacher.decay=0.75"),
    "dopsd_frozen": ("dopsd", "teacher.weights=frozen"),
    "dopsd_live": ("dopsd", "teacher.weights=live"),
    "dopsd_bf16": ("dopsd", "teacher.decay=0.75", "teacher.average_dtype=bf16_as_released"),
    "dopsd_whole": ("dopsd", "teacher.decay=0.75", "adapter=full", "optimizer.lr=1e-3"),
    "dopsd_vlm": ("dopsd@z_image_turbo", "teacher.decay=0.75"),
    "sft": (
        *("mopd_sft", *STUDENT),
        *("phase.best_of_n=2", "phase.caption_dropout=0.5", "phase.num_timesteps=2"),
    ),
    "sft_pairs": ("sft_pairs", "phase.ema.update_interval=2", "data.caption_key=[text,long]"),
    "dreambooth_pairs": ("dreambooth_pairs", "phase.num_class_pictures=5"),
    "pso_pairs": ("pso_pairs", "phase.num_timesteps=2"),
    "offpolicy_pairs": ("offpolicy_pairs", "teacher.decay=0.75"),
    "sft_assistant": ("sft_assistant",),
}
"""One of each kind of phase and estimator; `make soak` kills them, too."""


@pytest.mark.parametrize("name", [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_RUNS)])
def test_interrupted_equals_uninterrupted(world, tmp_path, name):
    experiment, *changes = (RUNS | MORE_RUNS)[name]

    def build(folder):
        settings = (f"trainer.max_epochs={ROUNDS}", "callbacks.round_checkpoint.every_n_rounds=100")
        return world.build(experiment, folder, *settings, *changes)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    build(whole).fit()
    first = build(cut)
    first.trainer.callbacks.insert(0, Interrupt(in_round=1))
    first.fit()
    assert latest_valid_checkpoint(cut / "checkpoints").name == "round_000002"
    torch.randn(3)  # whatever happens between the two must not matter
    resumed = build(cut)
    resumed.fit()

    assert resumed.trainer.current_epoch == ROUNDS
    expected, found = (final_state(folder) for folder in (whole, cut))
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    assert metrics(cut) == metrics(whole)
