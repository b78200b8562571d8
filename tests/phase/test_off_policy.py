"""Distillation at noised pictures, and fine-tuning on the samples of a teacher that sees them."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd.check import ConfigError, check_config
from support.slow import slow_but
from support.tiny_runs import randomise, relative_distance, run_rounds

K = 4


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
def test_a_sampler_with_history_has_no_states_of_its_own(world, tmp_path):
    with pytest.raises(ConfigError, match=r"phase\.states_from=pictures has states of no rollout"):
        world.build("offpolicy_pairs", tmp_path / "run", "sampler=dpm2")
