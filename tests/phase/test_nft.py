"""DiffusionNFT: one round worked by hand, the old policy's pace, advantages, and errors of rewards."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback

from diffopd.randomness import normal_rows, torch_generator
from diffopd.types import Prompts
from support.tiny_runs import randomise, relative_distance, run_rounds

ONE_UPDATE = (
    *("trainer.max_epochs=1", "sampler.num_steps=5"),
    *("phase.num_timesteps=2", "phase.updates_per_round=1"),
)


@pytest.fixture
def build_round(world, tmp_path):
    """``build_round(*overrides)`` builds a run of one round with one update in a new folder."""
    count = iter(range(100))

    def make(*overrides):
        return world.build("teacher_aesthetic", tmp_path / f"run{next(count)}", *ONE_UPDATE, *overrides)

    return make


def test_a_round_is_what_the_formulas_say(build_round):
    experiment = build_round("loss.kl_weight=0.1", "loss.beta=0.5")
    randomise(experiment.phase.model, "old", 8)
    loss, gradient = round_by_hand(experiment, kl_weight=0.1, beta=0.5, clip=1.5)
    run = run_rounds(experiment)
    assert run.metrics["train/loss/nft"] == pytest.approx(float(loss), rel=1e-5)
    assert len(run.gradients) == 1
    assert relative_distance(run.flat_gradient(), gradient) < 1e-5


def round_by_hand(experiment, *, kl_weight, beta, clip):
    """Loss and gradient of the first round: unguided Euler rollout of the old policy, then the NFT loss."""
    phase = experiment.phase
    model, prompts = phase.model, experiment.data.batch(0)
    randomise(model, "student", 7)
    conditioning, count = model.encode(prompts.texts), len(prompts)
    grid = phase.sampler.sigmas().tolist()

    def velocity(latent, sigma, adapter):
        return model.velocity(latent, sigma, conditioning, adapter)

    def noise(purpose):
        return normal_rows(0, purpose, 0, prompts.indices, model.latent_shape)

    clean = noise("rollout/start")
    with torch.no_grad():
        for t, t_next in pairwise(grid):
            clean = clean + (t_next - t) * velocity(clean, torch.full((count,), t), "old")
        rewards = phase.reward(model.decode(clean), prompts).value.double()

    assert prompts.groups == (0, 0, 0, 1, 1, 1)
    means = rewards.view(2, 3).mean(1, keepdim=True).expand(2, 3).flatten()
    advantage = (rewards - means) / (rewards.std(correction=0) + 1e-4)
    r = advantage.clamp(-clip, clip) / (2 * clip) + 0.5
    assert advantage.abs().max() > 0.1, "rewards must differ for this test to say anything"

    steps = torch.stack(
        [torch.randperm(5, generator=torch_generator(0, "nft/steps", 0, index)) for index in prompts.indices]
    )
    total = torch.zeros((), dtype=torch.float64)
    for column in range(2):
        sigma = torch.tensor(grid)[steps[:, column]]
        t = sigma[:, None, None, None].double()
        latent = ((1 - t) * clean + t * noise(f"nft/noise/{column}")).float()
        with torch.no_grad():
            old, reference = velocity(latent, sigma, "old").double(), velocity(latent, sigma, None).double()
        new = velocity(latent, sigma, "student").double()
        positive, negative = beta * new + (1 - beta) * old, (1 + beta) * old - beta * new

        def distance(v, latent=latent, t=t):
            error = latent.double() - t * v - clean.double()
            weight = error.detach().abs().flatten(1).mean(1).clamp_min(1e-5)
            return error.square().flatten(1).mean(1) / weight

        policy = (r * distance(positive) + (1 - r) * distance(negative)) / beta * clip
        total = total + (policy + kl_weight * (new - reference).square().flatten(1).mean(1)).mean() / 2
    parameters = list(phase.policies["student"].weights().values())
    return total.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])


def test_rollouts_and_training_are_unguided(build_round):
    """Guidance would double the rows of a forward."""
    experiment = build_round()
    rows, forward = [], experiment.phase.model.velocity

    def counted(latent, sigma, conditioning, adapters=None):
        rows.append((len(latent), adapters))
        return forward(latent, sigma, conditioning, adapters)

    experiment.phase.model.velocity = counted
    experiment.fit()
    assert rows == [(6, "old")] * 5 + [(6, "old"), (6, "student")] * 2
    assert experiment.trainer.callback_metrics["train/cost/forwards"] == 6 * (5 + 2 * 2)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (("loss=ram",), [None, "student"]),
        (("loss=ram", "loss.residual=old"), ["old", None, "student"]),
        (("loss=rvm", "loss.anchor_weight=0"), ["student"]),
    ],
)
def test_a_loss_costs_the_forwards_it_needs(world, tmp_path, settings, asked):
    experiment = world.build("ram_aesthetic", tmp_path / "run", *ONE_UPDATE, *settings)
    names, forward = [], experiment.phase.model.velocity

    def noted(latent, sigma, conditioning, adapters=None):
        names.append(adapters)
        return forward(latent, sigma, conditioning, adapters)

    experiment.phase.model.velocity = noted
    experiment.fit()
    assert names[5:] == asked * 2
    assert len(experiment.phase.policies["student"].weights()) > 0


def test_ram_samples_from_the_model_of_the_round_before(world, tmp_path):
    experiment = world.build("ram_aesthetic", tmp_path / "run", *ONE_UPDATE)
    run = run_rounds(experiment)
    old, student = (run.phase.policies[name].weights().values() for name in ("old", "student"))
    assert all(torch.equal(a, b) for a, b in zip(old, student, strict=True))
    assert run.flat_gradient().norm() > 0
    assert run.metrics["train/loss/ram"] > 0


def test_micro_batches_change_nothing(build_round):
    whole, parts = run_rounds(build_round()), run_rounds(build_round("phase.micro_batch_size=4"))
    assert relative_distance(parts.flat_gradient(), whole.flat_gradient()) < 1e-5
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-4)


def test_updates_share_the_noise_levels(build_round):
    """Two updates on one level each; the first has the gradient of a round trained at that level alone."""
    two = run_rounds(build_round("phase.updates_per_round=2"))
    one = run_rounds(build_round("phase.num_timesteps=1"))
    assert len(two.gradients) == 2
    assert two.experiment.trainer.global_step == 2
    assert torch.equal(two.flat_gradient(0), one.flat_gradient(0))


class FollowOld(Callback):
    """Keeps the old policy and the student as they are after every round."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        both = [pl_module.policies[name].weights().values() for name in ("old", "student")]
        flat = [torch.cat([value.detach().flatten() for value in weights]) for weights in both]
        self.after.append((*flat, float(trainer.callback_metrics["train/old_policy_decay"])))


@pytest.mark.parametrize(
    ("settings", "decays"),
    [
        # The ramp counts optimiser steps: after 2, 4, 6 of them.
        (("phase.old_policy.start=1", "phase.old_policy.rate=0.25"), [0.25, 0.5, 0.5]),
        (("phase.old_policy.decay_type=0",), [0.0, 0.0, 0.0]),
        (("phase.old_policy.decay_type=1",), [0.002, 0.004, 0.006]),
    ],
)
def test_the_old_policy_follows_at_its_pace(build_round, settings, decays):
    experiment = build_round("phase.updates_per_round=2", "trainer.max_epochs=3", *settings)
    follow = FollowOld()
    experiment.trainer.callbacks.append(follow)
    names = experiment.phase.policies["old"].weights().values()
    old = torch.cat([p.detach().flatten() for p in names])
    experiment.fit()
    assert [decay for *_, decay in follow.after] == pytest.approx(decays)
    for (found, student, _), decay in zip(follow.after, decays, strict=True):
        torch.testing.assert_close(found, decay * old + (1 - decay) * student, rtol=1e-5, atol=1e-7)
        assert not torch.equal(student, old)
        old = found


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        # Task a: rewards 0, 2, 4, 4; group means 1 and 4; deviation sqrt(2.75), of its groups 1 and 0.
        ("global", [-(2.75**-0.5), 2.75**-0.5, 0.0, 0.0, -1.0, 1.0]),
        ("group", [-1.0, 1.0, 0.0, 0.0, -1.0, 1.0]),
    ],
)
def test_advantages_are_within_groups_and_scaled_within_tasks(build_round, scope, expected):
    phase = build_round(f"phase.advantage_std={scope}").phase
    prompts = Prompts(
        ("x",) * 6, ("a", "b", "a", "a", "b", "a"), ({},) * 6, (7, 3, 9, 1, 2, 4), (0, 5, 0, 2, 5, 2)
    )
    rewards = torch.tensor([0.0, 10.0, 2.0, 4.0, 30.0, 4.0])
    of_a, of_b = expected[:4], expected[4:]
    rows = torch.tensor([of_a[0], of_b[0], of_a[1], of_a[2], of_b[1], of_a[3]])
    torch.testing.assert_close(phase.compared(rewards, prompts).of(prompts), rows, atol=2e-4, rtol=0)


def test_advantages_are_clipped_and_filtered(build_round):
    phase = build_round("phase.advantage_mode=positive_only", "loss.advantage_clip=0.5").phase
    prompts = Prompts(("x",) * 2, ("a", "a"), ({},) * 2, (0, 1), (0, 0))
    assert phase.compared(torch.tensor([0.0, 2.0]), prompts).of(prompts).tolist() == [0.0, 0.5]


def test_a_reward_that_fails_stops_the_training(build_round):
    experiment = build_round()

    def fails(images, prompts):
        raise RuntimeError("sample 3 cannot be scored")

    experiment.phase.reward = fails
    with pytest.raises(RuntimeError, match="sample 3 cannot be scored"):
        experiment.fit()


@pytest.mark.parametrize("setting", ["phase.num_timesteps=10", "phase.updates_per_round=3"])
def test_noise_levels_that_do_not_fit_are_refused(build_round, setting):
    with pytest.raises(ValueError, match=r"phase\.num_timesteps"):
        build_round(setting)
