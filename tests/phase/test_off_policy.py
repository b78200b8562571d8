"""Distillation at states that are not the student's own, and fine-tuning on the samples of a teacher."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd.build.experiment import build
from diffopd.check import ConfigError, check_config
from diffopd.phase.off_policy import LastAnswer
from support.slow import slow_but
from support.tiny_runs import TASKS, randomise, relative_distance, run_rounds

K = 4
UNGUIDED = tuple(f"teacher.teachers.{task}.guidance_scale=1" for task in TASKS)


@pytest.mark.parametrize("kind", slow_but(["fused", "two_pass"], "fused"))
def test_the_teacher_labels_noised_pictures(world, tmp_path, kind):
    """The gradient of Eq. 7 at ``x_k = (1 - sigma_k) picture + sigma_k noise_k``, on the rollout's grid."""
    run = world.build(
        "offpolicy_pairs",
        tmp_path / "run",
        *("trainer.max_epochs=1", "loss=velocity_uniform", f"phase.round={kind}"),
    )
    phase, prompts = run.phase, run.data.batch(0)
    model, sigmas = phase.model, phase.sampler.sigmas()
    randomise(model, "student", 7)
    told, given = phase.conditioning(phase.teacher.context(prompts)), phase.conditioning(prompts)
    clean = torch.stack([model.encode_picture(picture) for picture in prompts.targets])
    losses = []
    for step in range(K):
        sigma = sigmas[step].expand(2)
        latent = (1 - sigmas[step]) * clean + sigmas[step] * phase.noise(f"off_policy/step/{step}", prompts)
        with torch.no_grad():
            target = model.velocity(latent, sigma, told, "teacher")
        losses.append((model.velocity(latent, sigma, given, "student") - target).square().mean())
    loss = torch.stack(losses).mean()
    expected = torch.autograd.grad(loss, list(phase.student.weights().values()))
    rounds = run_rounds(run)
    assert rounds.metrics["train/loss/opd"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert "train/cost/images" not in rounds.metrics
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in expected])) < 1e-4


@pytest.mark.slow
def test_the_student_is_rolled_out_where_it_is_scored(world, tmp_path):
    scored = ("phase.score_every_n_rounds=1", "+reward=picture_quality", "trainer.max_epochs=1")
    runs = [
        run_rounds(world.build("offpolicy_pairs", tmp_path / str(number), *more))
        for number, more in enumerate((scored, scored[2:]))
    ]
    assert "train/reward/pictures" in runs[0].metrics
    assert torch.equal(runs[0].flat_gradient(), runs[1].flat_gradient())


def test_the_teacher_labels_the_states_of_its_own_rollout(world, tmp_path):
    """The gradient at the states that the teacher's Euler steps visit, from the student's own first noise."""
    run = world.build(
        "sopd_aesthetic",
        tmp_path / "run",
        *("trainer.max_epochs=1", "phase.states_from=teacher", "loss=velocity_uniform"),
        *(f"sampler.num_steps={K}", "phase.score_every_n_rounds=0"),
    )
    phase, prompts = run.phase, run.data.batch(0)
    model, sigmas = phase.model, phase.sampler.sigmas()
    randomise(model, "student", 7)
    given = phase.conditioning(prompts)
    teacher = phase.target.given(prompts, given)  # guided, as its card says
    latent, losses = phase.noise("rollout/start", prompts), []
    for step in range(K - 1):  # all but the last
        sigma = sigmas[step].expand(len(prompts))
        label = teacher(latent, sigma)
        losses.append((model.velocity(latent, sigma, given, "student") - label).square().mean())
        latent = latent + (sigmas[step + 1] - sigmas[step]) * label
    loss = torch.stack(losses).mean()
    expected = torch.autograd.grad(loss, list(phase.student.weights().values()))
    rounds = run_rounds(run)
    assert rounds.metrics["train/loss/opd"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in expected])) < 1e-4


@pytest.mark.parametrize("drawer", slow_but(["teacher_samples", "base_samples"], "base_samples"))
def test_the_teacher_labels_noised_samples(world, tmp_path, drawer):
    run = world.build(
        "sopd_aesthetic",
        tmp_path / "run",
        *("trainer.max_epochs=1", f"phase.states_from={drawer}", "loss=velocity_uniform"),
        *(f"sampler.num_steps={K}", "phase.score_every_n_rounds=0"),
    )
    phase, prompts = run.phase, run.data.batch(0)
    model, sigmas = phase.model, phase.sampler.sigmas()
    randomise(model, "student", 7)
    given = phase.conditioning(prompts)
    teacher = phase.target.given(prompts, given)

    def base(latent, sigma):
        return model.velocity(latent, sigma, given)

    draws = teacher if drawer == "teacher_samples" else base
    clean, losses = phase.noise("rollout/start", prompts), []
    for step in range(K):
        velocity = draws(clean, sigmas[step].expand(len(prompts)))
        clean = clean + (sigmas[step + 1] - sigmas[step]) * velocity.detach()
    for step in range(K - 1):
        sigma = sigmas[step].expand(len(prompts))
        latent = (1 - sigmas[step]) * clean + sigmas[step] * phase.noise(f"off_policy/step/{step}", prompts)
        gap = model.velocity(latent, sigma, given, "student") - teacher(latent, sigma)
        losses.append(gap.square().mean())
    loss = torch.stack(losses).mean()
    rounds = run_rounds(run)
    assert rounds.metrics["train/loss/opd"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert rounds.metrics["train/cost/images"] == len(prompts)


CELLS = ("mopd_ode", "teacher_states", "teacher_noised", "base_noised", "mopd_sft_8")


@pytest.mark.parametrize("variant", slow_but(CELLS, "teacher_states", "teacher_noised"))
def test_cells_of_the_ablation_take_equal_forwards(world, tmp_path, conf_dir, variant):
    """18 of a sample: 9 states and 9 labels; 10 steps, 4 states and 4 labels; 10 steps and 8 noise levels."""
    small = [*world.overrides("mopd_ode"), *UNGUIDED, "trainer.max_epochs=1", "phase.score_every_n_rounds=0"]
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=[f"+variant={variant}", *small])
    cfg.paths.run, cfg.paths.root = str(tmp_path / "run"), str(tmp_path)
    metrics = run_rounds(build(cfg)).metrics
    samples = 2 * len(TASKS)
    assert metrics["train/cost/forwards"] == 18 * samples
    assert metrics["train/cost/images"] == samples


def test_an_answer_is_not_computed_twice_at_one_state():
    asked = []

    def velocity(latent, sigma):
        asked.append(latent)
        return 2 * latent

    answer, state = LastAnswer(velocity), torch.ones(1, 2)
    first = answer(state, torch.ones(1))
    assert answer(state.detach(), torch.ones(1)) is first
    assert torch.equal(answer(state.clone(), torch.ones(1)), first)
    assert len(asked) == 2


@pytest.mark.slow
def test_fine_tuning_on_what_the_teacher_draws_that_sees_the_picture(world, tmp_path):
    run = world.build("sft_teacher_samples", tmp_path / "run", "trainer.max_epochs=1")
    phase, prompts = run.phase, run.data.batch(0)
    given, told = phase.conditioning(prompts), phase.conditioning(phase.teacher.context(prompts))
    clean = phase.examples(prompts, given)
    assert all(len(shown) == 1 for shown in told.references)
    latents = [phase.noise("sft/candidate/0/start", prompts)] * 2
    sigmas = phase.sampler.sigmas()
    for step in range(K):
        with torch.no_grad():
            velocities = [
                phase.model.velocity(latent, sigmas[step].expand(2), conditioning)
                for latent, conditioning in zip(latents, (told, given), strict=True)
            ]
        latents = [
            latent + (sigmas[step + 1] - sigmas[step]) * velocity
            for latent, velocity in zip(latents, velocities, strict=True)
        ]
    assert relative_distance(clean, latents[0]) < 1e-5
    assert relative_distance(clean, latents[1]) > 1e-4  # what it is shown matters


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=ocr"], r"phase\.states_from=pictures takes its states from pictures, and the data has none"),
        (["data.path=x", "phase.states_from=data"], r"states_from=data must be one of rollout, pictures"),
    ],
)
def test_settings_that_do_not_go_together(conf_dir, overrides, message):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=offpolicy_pairs", *overrides])
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "source"), [("offpolicy_pairs", "pictures"), ("sopd_ocr", "teacher")])
def test_a_sampler_with_history_has_no_states_of_its_own(world, tmp_path, experiment, source):
    with pytest.raises(ConfigError, match=rf"phase\.states_from={source} has states of no rollout"):
        world.build(experiment, tmp_path / "run", "sampler=dpm2", f"phase.states_from={source}")
