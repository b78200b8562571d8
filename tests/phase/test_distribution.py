"""Regularization towards a distribution: its gradient by hand, who learns, and what it fits."""

from __future__ import annotations

import pytest
import torch

from diffopd.check import ConfigError
from diffopd.randomness import normal_rows, torch_generator, uniform_rows
from support.tiny_runs import randomise, relative_distance, run_rounds

ONE = (
    *("trainer.max_epochs=1", "phase.num_timesteps=1", "phase.updates_per_round=1"),
    *("regulariser.guidance_scale=1", "regulariser.fake_updates_per_round=1"),
)


def by_hand(experiment):
    """DMD's loss and gradient at the one noise level of each sample, and the fake score's gradient."""
    phase = experiment.phase
    model, prompts, grid = phase.model, experiment.data.batch(0), phase.sampler.sigmas()
    randomise(model, "student", 7)
    randomise(model, "old", 8)
    randomise(model, "fake", 9)
    conditioning, rows = model.encode(prompts.texts), len(prompts)

    def noise(purpose):
        return normal_rows(0, purpose, 0, prompts.indices, model.latent_shape)

    def clean_at(latent, sigma, name):
        velocity = model.velocity(latent, sigma, conditioning, name)
        return latent.double() - sigma[:, None, None, None].double() * velocity.double()

    def mixed(clean, fresh, sigma):
        t = sigma[:, None, None, None]
        return (1 - t) * clean + t * fresh

    def tau(purpose):
        return 0.02 + 0.96 * uniform_rows(0, f"{purpose}/tau", 0, prompts.indices, (1,))[:, 0]

    with torch.no_grad():
        sample = noise("rollout/start")
        for step in range(4):
            level = grid[step].expand(rows)
            sample = sample + (grid[step + 1] - grid[step]) * model.velocity(
                sample, level, conditioning, "old"
            )
    order = [torch.randperm(4, generator=torch_generator(0, "nft/steps", 0, i))[0] for i in prompts.indices]
    sigma = grid[torch.stack(order)]
    predicted = clean_at(mixed(sample, noise("nft/noise/0"), sigma), sigma, "student")
    start = predicted.detach()
    with torch.no_grad():
        level = tau("distribution/0/0/student")
        seen = mixed(start.float(), noise("distribution/0/0/student/noise"), level)
        real, fake = (start - clean_at(seen, level, name) for name in (None, "fake"))
        direction = (real - fake) / real.abs().flatten(1).mean(1)[:, None, None, None]
    loss = 0.5 * (predicted - (start - direction)).square().mean()
    parameters = list(phase.policies["student"].weights().values())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    level = tau("distribution/0/0/fake/0")
    fresh = noise("distribution/0/0/fake/0/noise")
    velocity = model.velocity(mixed(start.float(), fresh, level), level, conditioning, "fake")
    return float(loss.detach()), gradient, float((velocity - (fresh - start)).square().mean().detach())


def test_the_term_is_dmds_times_its_weight(world, tmp_path):
    def build(name, *settings):
        experiment = world.build("few_step_aesthetic", tmp_path / name, *ONE, *settings)
        return experiment, by_hand(experiment)

    experiment, (loss, gradient, fake) = build("with", "regulariser.weight=3")
    before = [value.clone() for value in experiment.phase.policies["fake"].weights().values()]
    found = run_rounds(experiment)
    without = world.build("teacher_aesthetic", tmp_path / "without", "sampler.num_steps=4", *ONE[:3])
    for name, seed in (("old", 8), ("student", 7)):
        randomise(without.phase.model, name, seed)
    difference = found.flat_gradient() - run_rounds(without).flat_gradient()
    assert found.metrics["train/loss/distribution"] == pytest.approx(loss, rel=1e-4)
    assert found.metrics["train/loss/fake"] == pytest.approx(fake, rel=1e-4)
    assert relative_distance(difference, 3 * gradient) < 1e-3
    after = found.phase.policies["fake"].weights().values()
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert experiment.trainer.global_step == 1  # the student's update alone


@pytest.mark.slow
@pytest.mark.parametrize("round", ["fused", "two_pass"])
def test_a_teacher_pulls_and_the_distribution_holds(world, tmp_path, round):
    """Every trained state adds its term; the fake score learns once after the update."""
    settings = (
        "trainer.max_epochs=1",
        "sampler.num_steps=3",
        "regulariser=distribution",
        "phase.round=" + round,
    )
    run = run_rounds(world.build("sopd_aesthetic", tmp_path / "run", *settings, "regulariser.weight=2"))
    plain = run_rounds(world.build("sopd_aesthetic", tmp_path / "plain", *settings[:2], settings[3]))
    assert run.metrics["train/loss/distribution"] > 0
    assert run.metrics["train/fake_gradient_norm"] > 0
    assert relative_distance(run.flat_gradient(), plain.flat_gradient()) > 1e-2
    assert run.experiment.trainer.global_step == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("regulariser=anchor",), r"phase=nft takes no Anchor as its regulariser"),
        (
            ("regulariser.tau_min=0.9", "regulariser.tau_max=0.5"),
            r"regulariser\.tau_min=0\.9 and regulariser",
        ),
        (("regulariser.weight=0",), r"regulariser\.weight=0 must be"),
        (("regulariser.guidance_scale=0.5",), r"regulariser\.guidance_scale=0\.5"),
        (
            ("regulariser.path=null", "regulariser.guidance_scale=null"),
            r"regulariser\.guidance_scale is null",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(world, tmp_path, settings, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        world.build("few_step_aesthetic", tmp_path / "run", *settings)
