"""D-OPSD: the model teaches itself what its student is not told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffopd.files.sample_row import list_rows, read_row
from diffopd.policy import Fixed
from support.tiny_runs import randomise, relative_distance, run_rounds

K = 4


@pytest.fixture
def build(world, tmp_path):
    def built(folder, *overrides):
        return world.build("dopsd", tmp_path / folder, *overrides)

    return built


def test_the_teacher_is_the_student_that_sees_the_target(build):
    run = build("run", "trainer.max_epochs=1")
    phase, seen = run.phase, []
    loss = phase.loss
    phase.loss = lambda student, target: (seen.append((student, target)), loss(student, target))[1]
    rounds = run_rounds(run, student_seed=None)
    prompts = run.data.batch(0)
    model = phase.model
    template = phase.teacher.context.template
    told = model.condition(
        prompts.with_texts([template.replace("{caption}", text) for text in prompts.texts]).with_references(
            [(target,) for target in prompts.targets]
        )
    )
    assert [student.step for student, _ in seen] == list(range(K))
    assert all(len(row) == 1 for row in told.references)
    total = 0.0
    for student, target in seen:
        with torch.no_grad():  # the average was the base model's equal when the round was taken
            expected = model.velocity(student.latent, student.sigma, told)
            blind = model.velocity(student.latent, student.sigma, model.condition(prompts))
        assert relative_distance(target, expected) < 1e-5
        assert relative_distance(blind, expected) > 1e-4  # what it is shown matters
        gap = (student.velocity.detach() - expected).square().mean()
        total += float(student.sigma[0] ** 2 * gap) / 2 / K
    assert rounds.metrics["train/loss/opd"] == pytest.approx(total, rel=1e-4)
    assert rounds.flat_gradient().norm() > 0


def test_equation_7_is_the_mean_over_steps_of_the_squared_velocity_gap(build):
    """``1/K sum_k || v_student - sg v_teacher ||^2``, a mean over elements, its gradient by one backward."""
    run = build("run", "trainer.max_epochs=1", "loss=velocity_uniform")
    phase = run.phase
    randomise(phase.model, "student", 7)
    prompts = run.data.batch(0)
    told = phase.conditioning(phase.teacher.context(prompts))
    given = phase.conditioning(prompts)
    latent = phase.noise("rollout/start", prompts)
    sigmas = phase.sampler.sigmas()
    losses = []
    for step in range(K):
        sigma = sigmas[step].expand(len(latent))
        velocity = phase.model.velocity(latent, sigma, given, "student")
        with torch.no_grad():
            target = phase.model.velocity(latent, sigma, told, "teacher")
        losses.append((velocity - target).square().mean())
        latent = (latent + (sigmas[step + 1] - sigmas[step]) * velocity).detach()
    loss = torch.stack(losses).mean()
    parameters = phase.student.weights()
    expected = torch.autograd.grad(loss, list(parameters.values()))
    rounds = run_rounds(run, student_seed=None)
    assert rounds.metrics["train/loss/opd"] == pytest.approx(float(loss.detach()), rel=1e-5)
    found = list(rounds.gradients[0].values())
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (found, expected)]
    assert relative_distance(*flat) < 1e-4


def test_the_average_follows_each_update(build):
    run = build("run", "trainer.max_epochs=2", "teacher.decay=0.75")
    phase, moves = run.phase, []
    teacher, student = phase.policies["teacher"], phase.student
    start = values(teacher)
    assert equal(start, values(student))
    take = phase.update

    def update():
        take_result = take()
        moves.append((values(student), values(teacher)))
        return take_result

    phase.update = update
    run.fit()
    expected = start
    for current, found in moves:
        expected = {key: 0.75 * expected[key] + 0.25 * current[key] for key in expected}
        assert not equal(found, current)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value)
    assert len(moves) == 2


@pytest.mark.parametrize("weights", ["ema", "frozen", "live"])
@pytest.mark.parametrize("model", ["flux2_klein", "z_image_turbo"])
def test_two_updates_and_a_teacher_of_each_kind(world, tmp_path, model, weights):
    """The experiment with the context that each model reads best."""
    run = world.build(f"dopsd@{model}", tmp_path / "run", f"teacher.weights={weights}", "teacher.decay=0.5")
    rounds = run_rounds(run, student_seed=None)
    assert len(rounds.gradients) == 2
    assert all(rounds.flat_gradient(update).norm() > 0 for update in range(2))
    assert all(map(math.isfinite, rounds.metrics.values()))
    assert not [name for name in rounds.metrics if "reward" in name]  # there is none
    assert (run.folder / "adapter").is_dir()
    moved = "teacher" in run.phase.policies
    assert moved == (weights == "ema")


def test_samples_show_student_and_teacher_side_by_side(build):
    """Of prompts that training does not use; the teacher is shown one of the training pictures."""
    run = build(
        "run",
        "callbacks.samples.shares=[0,1]",
        "callbacks.samples.prompts=[a thing on the moon,a thing]",
        "trainer.max_epochs=1",
    )
    run.fit()
    rows = [read_row(file) for file in list_rows(run.folder / "samples")]
    assert [row.round for row, _ in rows] == [0, 1]
    for row, images in rows:
        assert row.prompts == (
            "student: a thing on the moon",
            "teacher: a thing on the moon",
            "student: a thing",
            "teacher: a thing",
        )
        assert len(images) == 4
        pixels = [torch.from_numpy(np.array(image)).int() for image in images]
        assert (pixels[0] - pixels[1]).abs().max() > 0  # it sees what the student does not
        assert (pixels[0] - pixels[2]).abs().max() > 5


def test_frozen_and_live_teachers_need_no_copy(build):
    frozen = build("frozen", "teacher.weights=frozen").phase
    live = build("live", "teacher.weights=live").phase
    assert "teacher" not in frozen.policies
    assert "teacher" not in live.policies
    assert isinstance(frozen.teacher.network, Fixed)
    assert live.teacher.network is live.student


def values(policy):
    return {key: value.detach().clone() for key, value in policy.weights().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
