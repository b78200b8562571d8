"""Policy gradient on transitions: updates worked by hand, drops, windows, and the ratio guard."""

from __future__ import annotations

import pytest
import torch

from diffopd.flow import log_prob
from diffopd.randomness import normal_rows
from support.tiny_runs import randomise, relative_distance, run_rounds

ONE_UPDATE = ("trainer.max_epochs=1", "phase.updates_per_round=1", "sampler.num_steps=5")


@pytest.fixture
def build_round(world, tmp_path):
    """``build_round(*overrides)`` builds a run of one round with one update in a new folder."""
    count = iter(range(100))

    def make(*overrides, experiment="guard_aesthetic"):
        return world.build(experiment, tmp_path / f"run{next(count)}", *ONE_UPDATE, *overrides)

    return make


def rollout_by_hand(experiment):
    """States, velocities and rewards of the first round, with the policy's own sampler."""
    phase = experiment.phase
    model, prompts = phase.model, experiment.data.batch(0)
    randomise(model, "student", 7)
    conditioning = model.encode(prompts.texts)

    def noise(purpose):
        return normal_rows(0, purpose, 0, prompts.indices, model.latent_shape)

    def velocity(latent, sigma, adapter="student"):
        return model.velocity(latent, sigma, conditioning, adapter)

    with torch.no_grad():
        transitions = list(
            phase.sampler.rollout(
                velocity, noise("rollout/start"), lambda step: noise(f"rollout/step/{step}")
            )
        )
        rewards = phase.reward(model.decode(transitions[-1].next_latent), prompts).value.double()
    centred = rewards - rewards.view(2, 3).mean(1, keepdim=True).expand(2, 3).flatten()
    advantage = (centred / (rewards.std(correction=0) + 1e-4)).clamp(-5, 5).float()
    return transitions, velocity, advantage


def test_a_round_of_flow_grpo_is_what_the_formulas_say(build_round):
    experiment = build_round("loss=flow_grpo", "loss.kl_weight=0.1")
    transitions, velocity, advantage = rollout_by_hand(experiment)
    assert advantage.abs().min() > 0
    parameters = list(experiment.phase.policies["student"].weights().values())
    total = torch.zeros(())
    for old in transitions[:4]:
        new = velocity(old.latent, old.sigma)
        mean = old.mean + old.coefficient.view(-1, 1, 1, 1) * (new - old.velocity)
        change = log_prob(old.next_latent, mean, old.std, reduction="mean")
        ratio = (change - change.detach()).exp()
        with torch.no_grad():
            reference = velocity(old.latent, old.sigma, None)
        kl = ((old.coefficient / old.std).square() / 2) * (new - reference).square().mean((1, 2, 3))
        total = total + (-advantage * ratio + 0.1 * kl).mean() / 4
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
    run = run_rounds(experiment)
    assert run.metrics["train/loss/policy"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert relative_distance(run.flat_gradient(), gradient) < 1e-4
    assert all(run.metrics[f"train/ratio/step_{step}"] == pytest.approx(1, abs=1e-6) for step in range(4))
    assert "train/ratio/step_4" not in run.metrics
    assert run.metrics["train/clip_fraction/step_0"] == 0


def test_guard_scales_each_step_by_its_length(build_round):
    experiment = build_round()
    transitions, velocity, advantage = rollout_by_hand(experiment)
    parameters = list(experiment.phase.policies["student"].weights().values())
    total = torch.zeros(())
    for old in transitions[:4]:
        drift = old.coefficient.view(-1, 1, 1, 1) * (velocity(old.latent, old.sigma) - old.velocity)
        noise = (old.next_latent - old.mean) / old.std.view(-1, 1, 1, 1)
        weight = 1 / (old.sigma - old.sigma_next)
        total = total - (weight * advantage * (noise * drift).mean((1, 2, 3))).mean() / 4
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
    run = run_rounds(experiment)
    assert relative_distance(run.flat_gradient(), gradient) < 1e-4


def test_later_updates_of_a_round_are_off_policy(build_round):
    run = run_rounds(build_round("phase.updates_per_round=3"))
    assert len(run.gradients) == 3
    assert any(run.metrics[f"train/ratio/step_{step}"] != 1 for step in range(4))


def test_micro_batches_change_nothing(build_round):
    whole = run_rounds(build_round())
    parts = run_rounds(build_round("phase.micro_batch_size=4"))
    assert relative_distance(parts.flat_gradient(), whole.flat_gradient()) < 1e-4
    changing = ("train/time/", "train/memory/")
    for name in (name for name in whole.metrics if not name.startswith(changing)):
        assert parts.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-4, abs=1e-6)


def test_groups_without_a_difference_are_dropped_and_counted(build_round):
    experiment = build_round()
    scorer = experiment.phase.reward

    def flat_first_group(images, prompts):
        scores = scorer(images, prompts)
        value = torch.where(torch.tensor(prompts.groups) == 0, 0.5, scores.value)
        return type(scores)(value, {}, scores.scale)

    experiment.phase.reward = flat_first_group
    used = []
    loss = experiment.phase.loss

    class Watched(type(loss)):
        def __call__(self, transition, *rest):
            used.append(len(transition.sigma))
            return super().__call__(transition, *rest)

    experiment.phase.loss = Watched.__new__(Watched)
    experiment.phase.loss.__dict__ |= loss.__dict__
    run = run_rounds(experiment)
    assert run.metrics["train/advantage/dropped"] == 3
    assert set(used) == {3}


def test_a_constant_reward_warns_and_takes_no_step(build_round, caplog):
    experiment = build_round()
    scorer = experiment.phase.reward

    def constant(images, prompts):
        scores = scorer(images, prompts)
        return type(scores)(torch.full_like(scores.value, 0.25), {}, scores.scale)

    experiment.phase.reward = constant
    run = run_rounds(experiment)
    assert not run.gradients
    assert "reward (constant) is 0.25 for all 6 samples of task 'aesthetic'" in caplog.text


def test_noise_stays_within_the_window(build_round):
    ten = "sampler.num_steps=10"
    window = (ten, "phase.noise_window.size=2", "phase.noise_window.first=1", "phase.noise_window.last=4")
    experiment = build_round(*window, "trainer.max_epochs=1")
    asked = []
    noise = experiment.phase.noise
    experiment.phase.noise = lambda purpose, prompts: asked.append(purpose) or noise(purpose, prompts)
    run = run_rounds(experiment)
    steps = sorted(int(name.rpartition("/")[2]) for name in asked if "/step/" in name)
    assert len(steps) == 2
    assert steps[1] == steps[0] + 1
    assert 1 <= steps[0] <= 3
    assert {name for name in run.metrics if "train/ratio/" in name} == {
        f"train/ratio/step_{step}" for step in steps
    }
    with pytest.raises(ValueError, match=r"phase.noise_window: size=2, first=8, last=9 must be a window"):
        build_round(
            ten, "phase.noise_window.size=2", "phase.noise_window.first=8", "phase.noise_window.last=9"
        )


def test_a_policy_that_differs_between_rollout_and_training_is_found(build_round):
    experiment = build_round()
    phase = experiment.phase
    rollout = phase._rollout

    def other_model(*given):
        visits, clean = rollout(*given)
        randomise(phase.model, "student", 3)
        return visits, clean

    phase._rollout = other_model
    with pytest.raises(RuntimeError, match="away from 1 before the first update of round 1"):
        experiment.fit()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss=diffusion_nft",), "learns from advantages of rewards, but"),
        (
            ("sampler.noise_level=0",),
            "sampler.noise_level=0 makes every transition of FlowSampler deterministic",
        ),
    ],
)
def test_choices_that_do_not_fit_are_refused(build_round, overrides, message):
    with pytest.raises(ValueError, match=message):
        build_round(*overrides)


def test_tasks_conflict_is_measured_in_the_rounds_that_are_due(world, tmp_path):
    once = ("trainer.max_epochs=1", "sampler.num_steps=5")
    run = run_rounds(world.build("mopd_ode", tmp_path / "a", *once, "phase.conflict_every_n_rounds=1"))
    names = {name for name in run.metrics if name.startswith("train/conflict/")}
    assert names == {
        "train/conflict/composition_ocr",
        "train/conflict/composition_aesthetic",
        "train/conflict/ocr_aesthetic",
    }
    assert all(-1 <= run.metrics[name] <= 1 for name in names)
    shares = [run.metrics[f"train/gradient_share/{task}"] for task in ("composition", "ocr", "aesthetic")]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0
    never = run_rounds(world.build("mopd_ode", tmp_path / "b", *once, "phase.conflict_every_n_rounds=0"))
    assert not any(name.startswith("train/conflict/") for name in never.metrics)
    assert relative_distance(run.flat_gradient(0), never.flat_gradient(0)) < 1e-5
