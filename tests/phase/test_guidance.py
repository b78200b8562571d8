"""Guidance of rollouts, of teachers and of the loss are three settings; prompts that teach nothing rest."""

from __future__ import annotations

import pytest
import torch

from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint
from support.interruption import Interrupt, metrics
from support.tiny_runs import randomise, relative_distance, run_rounds

GUIDED = ("trainer.max_epochs=1", "sampler.num_steps=3", "sampler.guidance_scale=2.0")
UNGUIDED = ("phase.loss_guidance_scale=1.0",)
NFT = ("phase.num_timesteps=1", "phase.updates_per_round=1")
GRPO = ("phase.updates_per_round=1", "phase.noise_window.last=1")


def noted(experiment):
    """Rows and networks of every forward, and whether it keeps a gradient."""
    calls, forward = [], experiment.phase.model.velocity

    def velocity(latent, sigma, conditioning, adapters=None):
        names = adapters if adapters is None or isinstance(adapters, str) else adapters[0]
        calls.append((len(latent), names, torch.is_grad_enabled()))
        return forward(latent, sigma, conditioning, adapters)

    experiment.phase.model.velocity = velocity
    return calls


def test_samples_are_guided_and_the_loss_is_not(world, tmp_path):
    experiment = world.build("teacher_aesthetic", tmp_path / "run", *GUIDED, *NFT, *UNGUIDED)
    calls = noted(experiment)
    experiment.fit()
    assert calls == [(12, "old", False)] * 3 + [(6, "old", False), (6, "student", True)]


@pytest.mark.slow
def test_a_policy_gradient_compares_policies_at_the_loss_guidance(world, tmp_path):
    """Its ratio is 1 before the first update, else the phase ends the run."""
    experiment = world.build("guard_aesthetic", tmp_path / "run", *GUIDED, *GRPO, *UNGUIDED)
    calls = noted(experiment)
    run = run_rounds(experiment)
    assert calls[:4] == [(12, "student", False), (6, "student", False)] * 2
    assert (6, "student", True) in calls
    assert (12, "student", True) not in calls
    assert run.flat_gradient().norm() > 0


@pytest.mark.parametrize("round", ["fused", pytest.param("two_pass", marks=pytest.mark.slow)])
def test_a_student_is_distilled_without_guidance_at_guided_states(world, tmp_path, round):
    """At the second of three steps: an Euler step of the guided student, then its unguided velocity."""
    settings = (
        "loss=velocity_uniform",
        "states=single",
        "states.first=1",
        "states.last=1",
        f"phase.round={round}",
    )
    teacher = "teacher.teachers.aesthetic.guidance_scale=3.0"
    experiment = world.build("sopd_aesthetic", tmp_path / "run", *GUIDED, *UNGUIDED, *settings, teacher)
    phase = experiment.phase
    model, prompts = phase.model, experiment.data.batch(0)
    randomise(model, "student", 7)
    conditioning, grid = model.encode(prompts.texts), phase.sampler.sigmas()
    teacher = phase.teacher.adapter("aesthetic")

    def guided(latent, sigma, name, scale):
        empty = model.unconditional().expand(len(latent))
        with_prompt = model.velocity(latent, sigma, conditioning, name)
        without = model.velocity(latent, sigma, empty, name)
        return without + scale * (with_prompt - without)

    start = phase.noise("rollout/start", prompts)
    with torch.no_grad():
        state = start + (grid[1] - grid[0]) * guided(start, grid[0].expand(len(start)), "student", 2.0)
        target = guided(state, grid[1].expand(len(start)), teacher, 3.0)
    loss = (
        (model.velocity(state, grid[1].expand(len(start)), conditioning, "student") - target).square().mean()
    )
    parameters = list(phase.policies["student"].weights().values())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    run = run_rounds(experiment)
    assert run.metrics["train/loss/opd"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert relative_distance(run.flat_gradient(), expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mopd_dmd", "mopd_tdm"])
def test_a_student_that_matches_distributions_may_be_unguided(world, tmp_path, name):
    segments = ("phase.num_segments=3", "phase.tau_window=to_noise") if name == "mopd_tdm" else ()
    experiment = world.build(name, tmp_path / "run", *GUIDED, *UNGUIDED, *segments)
    calls = noted(experiment)
    experiment.fit()
    trained = [rows for rows, network, gradient in calls if network == "student" and gradient]
    assert trained[-1] == 6
    assert 6 not in trained[:-1]  # whatever the rollout's are


@pytest.mark.slow
def test_other_estimators_have_one_guidance(world, tmp_path):
    with pytest.raises(ValueError, match=r"phase\.loss_guidance_scale=1 .* needs estimator=closed_form"):
        world.build("mopd_ppo", tmp_path / "run", "sampler.guidance_scale=2.0", *UNGUIDED)
    with pytest.raises(ValueError, match=r"phase\.loss_guidance_scale=-1.* must be"):
        world.build("mopd_ode", tmp_path / "other", "phase.loss_guidance_scale=-1")


@pytest.mark.slow
def test_a_filter_of_prompts_is_resumed(world, tmp_path):
    """Two of three prompts a round, all of which span too little."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a photo of a {shape}\n" for shape in ("circle", "square", "ring")))

    def build(folder):
        return world.build(
            "teacher_aesthetic",
            folder,
            *("trainer.max_epochs=4", "sampler.num_steps=2", *NFT, "data.prompt_filter.min_range=9"),
            *(f"data.tasks.aesthetic.path={prompts}", "data.tasks.aesthetic.group_size=2"),
            "callbacks.round_checkpoint.every_n_rounds=100",
        )

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    build(whole).fit()
    first = build(cut)
    first.trainer.callbacks.insert(0, Interrupt(in_round=1))
    first.fit()
    build(cut).fit()
    assert metrics(cut) == metrics(whole)
    passed = [float(line["train/prompts_passed_over/aesthetic"]) for line in metrics(whole)]
    assert passed[0] == 0
    assert sum(passed) > 0
    saved = read_checkpoint(latest_valid_checkpoint(whole / "checkpoints"))
    assert saved["PromptData"]["next"] == {"aesthetic": 4 * 2 + sum(passed)}
