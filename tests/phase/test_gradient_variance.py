"""The measurement of gradient variances, against gradients and moments computed in one go."""

from __future__ import annotations

import json
import math

import pytest
import torch

from diffopd.phase.variance_entry import ALL_STEPS
from support.tiny_runs import TASKS, randomise

SMALL = (
    "phase.noise_levels=[0.3,1.0]",
    "phase.steps=[5,1]",
    "phase.num_draws=4",
    "phase.group_sizes=[1,2]",
    "sampler.num_steps=7",
)
KINDS = ("closed_form", "ppo_sum", "ppo_mean", "ppo_detached_sum", "ppo_detached_mean", "log_ratio_sum")


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory):
    """A finished measurement with everything that was drawn: ``(experiment, draws, files)``."""
    folder = tmp_path_factory.mktemp("gradient_variance") / "run"
    experiment = world.build("gradient_variance", folder, *SMALL)
    phase = experiment.phase
    randomise(phase.model, "student", 7)
    before = {name: value.clone() for name, value in phase.named_parameters()}
    draws, take = [], phase._add

    def add(moments, gradients):
        draws.append({**gradients, ALL_STEPS: sum(gradients.values())})
        take(moments, gradients)

    phase._add = add
    experiment.run()
    assert all(torch.equal(value, before[name]) for name, value in phase.named_parameters())
    return experiment, draws, folder


def of_estimator(measured, level, name, step):
    """All gradients of one estimator at a noise level."""
    experiment, draws, _ = measured
    names = list(experiment.phase.estimators)
    at_level = draws[level * 4 * len(names) : (level + 1) * 4 * len(names)]
    return torch.stack([draw[step] for draw in at_level[names.index(name) :: len(names)]]).double()


@pytest.mark.parametrize("step", [1, 5, ALL_STEPS])
@pytest.mark.parametrize("name", ["ppo_sum", "ppo_detached_mean", "log_ratio_sum"])
def test_numbers_are_those_of_all_draws_at_once(measured, name, step):
    phase = measured[0].phase
    for level in (0, 1):
        draws = of_estimator(measured, level, name, step)
        exact = of_estimator(measured, level, "closed_form", step)[0]
        entry = phase.levels[level]["estimators"][name][str(step)]
        assert draws.shape == (4, len(exact))
        pairs = draws.view(2, 2, -1).mean(1)
        assert entry["variance"]["1"] == pytest.approx(float(draws.var(0).sum()), rel=1e-4)
        assert entry["variance"]["2"] == pytest.approx(float(pairs.var(0).sum()), rel=1e-4)
        squared = float(exact @ exact)
        assert phase.levels[level]["squared_gradient"][str(step)] == pytest.approx(squared, rel=1e-5)
        relative = entry["relative_variance"]["1"]
        assert relative == pytest.approx(entry["variance"]["1"] / squared, rel=1e-5)
        share = draws @ exact / squared
        assert entry["share"] == pytest.approx(float(share.mean()), rel=1e-3, abs=1e-5)
        assert entry["share_error"] == pytest.approx(float(share.std()) / math.sqrt(4), rel=1e-3)


def test_estimators_that_hydra_wraps_are_refused(world, tmp_path):
    with pytest.raises(
        ValueError, match=r"phase\.estimators\.\w+ is no estimator; phase\._convert_=all keeps"
    ):
        world.build("gradient_variance", tmp_path / "run", *SMALL, "~phase._convert_")


def test_closed_form_does_not_vary(measured):
    for level in measured[0].phase.levels:
        for entry in level["estimators"]["closed_form"].values():
            assert entry["variance"] == {"1": 0.0, "2": 0.0}
            assert (entry["share"], entry["share_z"], entry["distance_z"]) == (1.0, 0.0, 0.0)


def test_estimators_differ_as_their_formulas_say(measured):
    """PPO less its pathwise term is the detached one; the mean divides the score term by the latent size."""
    size = math.prod(measured[0].phase.model.latent_shape)
    exact, ppo, ppo_mean, detached, detached_mean, log_ratio = (
        of_estimator(measured, 1, name, ALL_STEPS) for name in KINDS
    )
    log_ratio_mean = of_estimator(measured, 1, "log_ratio_mean", ALL_STEPS)

    def close(found, expected):
        return (found - expected).norm() < 1e-4 * expected.norm()

    assert close(ppo - exact, detached)
    assert close(ppo_mean - exact, detached / size)
    assert close(detached_mean, detached / size)
    assert close(log_ratio_mean, log_ratio / size**2)
    assert not close(log_ratio, ppo)
    scales = {
        name: e["all"]["expected_scale"] for name, e in measured[0].phase.levels[1]["estimators"].items()
    }
    assert scales["log_ratio_mean"] == pytest.approx(size**-2)
    assert (scales["ppo_mean"], scales["ppo_detached_sum"], scales["log_ratio_sum"]) == (1.0, 0.0, 1.0)


def test_exact_gradient_is_that_of_a_fresh_forward(measured):
    """The loss at the visited states, mean over steps and over tasks, through the whole network at once."""
    experiment = measured[0]
    phase, prompts = experiment.phase, experiment.data.batch(0)
    sampler = phase.samplers[0]
    states = phase._states(sampler, prompts)
    assert [state.step for state in states] == [1, 5]
    total = torch.zeros(())
    for state in states:
        sigma = sampler.sigma_at(state.step, state.latent)
        velocity = phase.model.velocity(state.latent, sigma, phase.model.encode(prompts.texts), "student")
        transition = sampler.transition(state.step, state.latent, velocity)
        kl = ((velocity - state.target) * transition.coefficient[:, None, None, None]).square()
        nats = kl.flatten(1).sum(1) / (2 * transition.std.square())
        total = total + nats.mean() / 2  # two rows of each task, so the plain mean over rows
    gradient = torch.autograd.grad(total, list(phase.policies["student"].weights().values()))
    expected = torch.cat([part.flatten() for part in gradient]).double()
    found = of_estimator(measured, 0, "closed_form", ALL_STEPS)[0]
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert phase.levels[0]["kl_nats"][ALL_STEPS] == pytest.approx(float(total.detach()), rel=1e-4)


def test_noise_levels_start_from_the_same_prompts_and_noise(measured):
    experiment = measured[0]
    first, second = (
        experiment.phase._states(sampler, experiment.data.batch(0)) for sampler in experiment.phase.samplers
    )
    assert not torch.equal(first[0].latent, second[0].latent)
    phase = experiment.phase
    phase.steps, kept = (0,), phase.steps
    first, second = (phase._states(sampler, experiment.data.batch(0)) for sampler in phase.samplers)
    phase.steps = kept
    assert torch.equal(first[0].latent, second[0].latent)


def test_files_hold_every_noise_level_and_estimator(measured):
    experiment, _, folder = measured
    written = json.loads((folder / "gradient_variance.json").read_text())
    assert written["levels"] == experiment.phase.levels
    assert [level["noise_level"] for level in written["levels"]] == [0.3, 1.0]
    assert (written["steps"], written["teachers"]) == ([1, 5], list(TASKS))
    rows = [line for line in (folder / "gradient_variance.md").read_text().splitlines() if "| 0.3 |" in line]
    assert [row.split(" | ")[2] for row in rows] == list(experiment.phase.estimators)
    assert (folder / "gradient_variance.png").stat().st_size > 10_000
    logged = {name for name in experiment.trainer.callback_metrics if "gradient_variance" in name}
    assert "train/gradient_variance/ppo_sum/relative_variance_2" in logged
    assert "train/gradient_variance/log_ratio_sum/share_z" in logged


def test_a_finished_measurement_is_read_from_its_checkpoint(measured, world):
    experiment, _, folder = measured
    again = world.build("gradient_variance", folder, *SMALL)
    again.fit()
    assert again.phase.levels == experiment.phase.levels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phase.noise_levels=[0.3,0.7,1.0]", r"trainer.max_epochs=2 must be the number of .*, 3"),
        ("phase.noise_levels=[0.7,0.0]", r"phase.noise_levels.1=0.0 must be"),
        ("phase.steps=[7]", r"phase.steps has 7; steps with noise, counted from 0, are 0 to 6"),
        ("phase.steps=[]", r"phase.steps is empty; name steps from 0 to 6"),
        ("phase.num_draws=6", r"phase.num_draws=6 must be a multiple of twice .* which has 2"),
        ("phase.group_sizes=[]", r"phase.group_sizes must be whole numbers of at least 1, got \[\]"),
        ("loss.reduction=mean", r"compares with the gradient of the KL in nats; choose loss=reverse_kl"),
    ],
)
def test_settings_that_cannot_be_measured_are_named(world, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        world.build("gradient_variance", tmp_path / "run", *SMALL, change).fit()
