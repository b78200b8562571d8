"""Self-OPD: one round worked by hand, what it costs, and what branches need."""

from __future__ import annotations

import pytest
import torch

from diffopd.check import ConfigError
from diffopd.randomness import normal_rows
from support.tiny_runs import randomise, relative_distance, run_rounds

SMALL = (
    *("trainer.max_epochs=1", "sampler.num_steps=3", "phase.state_weights=[0,1,0]"),
    *("phase.num_states=1", "phase.num_branches=3"),
)


def by_hand(experiment):
    """Loss and gradient of the first round: an SDE step, branches of its state, the ODE to the end."""
    phase = experiment.phase
    model, prompts, sampler = phase.model, experiment.data.batch(0), phase.sampler
    randomise(model, "student", 7)
    conditioning, rows = model.encode(prompts.texts), len(prompts)
    grid, eta = sampler.sigmas().double(), 0.7

    def velocity(latent, step):
        return model.velocity(latent, torch.full((rows,), float(grid[step])), conditioning, "student")

    def noise(purpose):
        return normal_rows(0, purpose, 0, prompts.indices, model.latent_shape)

    def sde(latent, step):
        """Mean of Flow-GRPO's step and its deviation; at sigma 1 the next level stands in its place."""
        sigma, dt = grid[step], grid[step + 1] - grid[step]
        s = eta * (sigma / (1 - torch.minimum(sigma, grid[1]))).sqrt()
        v = velocity(latent, step).double()
        drift = latent.double() * (1 + s**2 / (2 * sigma) * dt)
        return drift + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt, s * (-dt).sqrt()

    with torch.no_grad():
        mean, std = sde(noise("rollout/start"), 0)
        state = (mean + std * noise("rollout/step/0")).float()
        mean, std = sde(state, 1)
        branches = [(mean + std * noise(f"self_opd/branch/1/{k}")).float() for k in range(3)]
        ends = [*branches, state + float(grid[2] - grid[1]) * velocity(state, 1)]
        clean = [end + float(grid[3] - grid[2]) * velocity(end, 2) for end in ends]
        scores = torch.stack([phase.reward(model.decode(end), prompts).value.double() for end in clean], 1)
    rewards, baseline = scores[:, :3], scores[:, 3:]
    advantages = (rewards - baseline) / rewards.std(1, keepdim=True).clamp_min(1e-4)
    offsets = torch.stack([branch.double() - mean for branch in branches], 1).flatten(2)
    units = offsets / offsets.norm(dim=2, keepdim=True)
    best = units[torch.arange(rows), advantages.argmax(1)]
    gate = torch.where(advantages < 0, (1 - (units * best[:, None]).sum(2)) / 2, 1.0)
    weights = (advantages * gate).clamp(-1, 1)
    assert weights.abs().max() > 0.1, "rewards must differ for this test to say anything"
    new, std = sde(state, 1)
    errors = torch.stack([(new - branch.double()).square().flatten(1).mean(1) for branch in branches], 1)
    loss = ((weights * errors).mean(1) / (2 * std**2)).mean()
    parameters = list(phase.policies["student"].weights().values())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    return float(loss.detach()), gradient, float(baseline.mean())


def test_a_round_is_what_the_formulas_say_and_costs_what_it_must(world, tmp_path):
    experiment = world.build("self_opd_aesthetic", tmp_path / "run", *SMALL)
    loss, gradient, baseline = by_hand(experiment)
    calls, forward = [], experiment.phase.model.velocity

    def noted(latent, sigma, conditioning, adapters=None):
        calls.append((len(latent), torch.is_grad_enabled()))
        return forward(latent, sigma, conditioning, adapters)

    experiment.phase.model.velocity = noted
    run = run_rounds(experiment)
    assert run.metrics["train/loss/self_opd"] == pytest.approx(loss, rel=1e-3)
    assert relative_distance(run.flat_gradient(), gradient) < 1e-3
    assert run.metrics["train/reward/aesthetic"] == pytest.approx(baseline, rel=1e-4)
    # Two rows: the rollout to the state, its forward there, which all branches share, and one step to the end
    # for three branches and the ODE; then the state once more, with a gradient.
    assert calls == [(2, False), (2, False), (8, False), (2, True)]
    assert run.metrics["train/cost/forwards"] == 14
    assert run.metrics["train/cost/images"] == run.metrics["train/cost/reward_calls"] == 8


@pytest.mark.slow
def test_micro_batches_and_background_scoring_change_nothing(world, tmp_path):
    settings = ("phase.num_states=2", "phase.state_weights=[1,1,0]", "data.tasks.aesthetic.group_size=2")
    runs = [
        run_rounds(world.build("self_opd_aesthetic", tmp_path / str(number), *SMALL, *settings, *more))
        for number, more in enumerate([(), ("phase.micro_batch_size=3", "phase.score_in_background=true")])
    ]
    assert relative_distance(runs[1].flat_gradient(), runs[0].flat_gradient()) < 1e-4
    assert runs[1].metrics == pytest.approx(runs[0].metrics, rel=1e-3)


@pytest.mark.slow
def test_states_are_drawn_by_their_weights(world, tmp_path, monkeypatch):
    phase = world.build("self_opd_aesthetic", tmp_path / "run").phase
    drawn, numbers = [], iter(range(300))
    monkeypatch.setattr(type(phase), "round", property(lambda self: next(numbers)))
    for _ in range(300):
        drawn += phase.steps()
    assert set(drawn) <= set(range(8))  # the last of the nine has weight 0
    counts = [drawn.count(step) for step in range(8)]
    assert counts[0] > counts[5] > counts[7] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("sampler.noise_level=0",), r"loss=self_opd draws branches by the noise of a transition"),
        (("phase.num_branches=1",), r"phase\.num_branches=1 must be"),
        (("phase.num_states=2",), r"phase\.num_states=2 must be from 1 to 1"),
        (("sampler.num_steps=2",), r"phase\.state_weights=.* must be at most sampler\.num_steps=2"),
        (("loss=diffusion_nft",), r"phase=self_opd trains on finished branches .*; choose loss=self_opd"),
    ],
)
def test_what_cannot_work_is_refused(world, tmp_path, settings, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        world.build("self_opd_aesthetic", tmp_path / "run", *SMALL, *settings)
