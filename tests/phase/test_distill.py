"""Distillation: the paper's formulas worked by hand, and what a round may and may not touch."""

from __future__ import annotations

import math
import weakref
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from diffopd.adapter import copy_adapter
from diffopd.callbacks import exported_adapter
from diffopd.randomness import normal_rows, torch_generator
from diffopd.states import StepChoice
from support.tiny_runs import GUIDANCE, TASKS, randomise, relative_distance, run_rounds

ONE_ROUND = (
    *("trainer.max_epochs=1", "sampler.num_steps=5"),
    *("reward=picture_quality", "phase.score_every_n_rounds=0"),
)
TWO_STEPS = ("sampler.num_steps=2",)
"""One to train and the last: where many rounds are what matters."""
PAPER = (
    "loss.reduction=sum",
    "states=all",
    "phase.step_reduction=sum",
    "phase.task_reduction=sum",
)
FOURTH_TEACHER = (
    "+teacher.teachers.signs.guidance_scale=null",
    "+data.tasks.signs.path=package://assets/prompts/ocr/train.txt",
    "+data.tasks.signs.prompts_per_round=2",
    "+data.tasks.signs.group_size=1",
)


BOTH = ("student", "average")


@pytest.fixture
def build_round(world, tmp_path):
    """``build_round(*overrides, experiment="mopd_ode")`` builds a run of one round in a new folder."""
    count = iter(range(100))

    def make(*overrides, experiment="mopd_ode"):
        return world.build(experiment, tmp_path / f"run{next(count)}", *ONE_ROUND, *overrides)

    return make


def weights_of(phase, name):
    return {key: value.detach().clone() for key, value in phase.policies[name].weights().items()}


class Recorder:
    """Stands in for the loss and keeps what each call was given and gave."""

    def __init__(self, loss):
        self.loss, self.calls = loss, []

    def __call__(self, student, teacher_velocity):
        term = self.loss(student, teacher_velocity)
        self.calls.append(
            (student.step, student.latent, student.sigma, teacher_velocity, term.value.detach())
        )
        return term


def record(experiment):
    experiment.phase.loss = Recorder(experiment.phase.loss)
    return experiment.phase.loss.calls


@pytest.mark.parametrize("noise_level", [0.0, 0.7])
def test_fused_and_two_pass_rounds_agree(build_round, noise_level):
    runs, forwards = [], []
    for kind in ("fused", "two_pass"):
        experiment = build_round(f"sampler.noise_level={noise_level}", f"phase.round={kind}")
        counted = student_forwards(experiment)
        runs.append(run_rounds(experiment))
        forwards.append(len(counted))
    assert forwards == [4, 4 + 4]  # a fused round needs one for each trained step
    fused, two_pass = runs
    assert fused.metrics["train/loss/opd"] == pytest.approx(two_pass.metrics["train/loss/opd"], rel=1e-5)
    assert fused.flat_gradient().norm() > 0
    assert relative_distance(fused.flat_gradient(), two_pass.flat_gradient()) < 1e-5


@pytest.mark.parametrize("noise_level", [0.0, 0.7])
def test_sums_over_all_steps_give_the_papers_formula(build_round, noise_level):
    """Eq. 12 (noise 0) and Eq. 11 (noise 0.7) from explicit means, summed over tasks as in Algorithm 1."""
    experiment = build_round(f"sampler.noise_level={noise_level}", *PAPER)
    loss, gradient = papers_formula(experiment, noise_level)
    run = run_rounds(experiment)
    assert run.metrics["train/loss/opd"] == pytest.approx(float(loss), rel=1e-5)
    assert relative_distance(run.flat_gradient(), gradient) < 1e-5
    if noise_level > 0:  # the KL is in nats whatever is trained; it is logged as a mean over tasks
        assert run.metrics["train/loss/kl_nats"] == pytest.approx(float(loss) / len(TASKS), rel=1e-5)


def papers_formula(experiment, noise_level):
    """Loss and gradient of the first round, worked out step by step in float64."""
    phase, data = experiment.phase, experiment.data
    model, guidance = phase.model, phase.sampler.guidance_scale
    randomise(model, "student", 7)
    prompts = data.batch(0)
    conditioning, empty = model.encode(prompts.texts), model.encode([""] * len(prompts))

    def guided(latent, sigma, scales, adapters):
        with_prompt = model.velocity(latent, sigma, conditioning, adapters).double()
        without = model.velocity(latent, sigma, empty, adapters).double()
        scale = torch.tensor(scales, dtype=torch.float64)[:, None, None, None]
        return without + scale * (with_prompt - without)

    grid = phase.sampler.sigmas().double().tolist()
    assert (grid[0], grid[-1], len(grid)) == (1.0, 0.0, 6)
    noise = [normal_rows(0, f"rollout/step/{j}", 0, prompts.indices, model.latent_shape) for j in range(5)]
    latent, total = normal_rows(0, "rollout/start", 0, prompts.indices, model.latent_shape), torch.zeros(())
    for j, (t, t_next) in enumerate(pairwise(grid)):
        dt, sigma = t_next - t, torch.full((len(prompts),), t)
        # Flow-GRPO's SDE; at t = 1 the denominator takes the next level.
        g2 = noise_level**2 * t / (1 - (grid[1] if t == 1 else t))
        std = math.sqrt(g2 * -dt)

        drift = latent.double() * (1 + g2 / (2 * t) * dt)
        slope = (1 + g2 * (1 - t) / (2 * t)) * dt
        student = drift + slope * guided(latent, sigma, [guidance] * len(prompts), "student")
        with torch.no_grad():
            names = [f"teacher_{task}" for task in prompts.tasks]
            scales = [GUIDANCE[task] for task in prompts.tasks]
            teacher = drift + slope * guided(latent, sigma, scales, names)
        squared = (student - teacher).square().flatten(1).sum(1)
        per_row = squared / (2 * std**2) if noise_level > 0 else squared / 2
        rows_of_a_task = len(prompts) / len(TASKS)
        total = total + per_row.sum() / rows_of_a_task
        latent = (student.detach() + std * noise[j].double()).float()
    parameters = list(phase.policies["student"].weights().values())
    return total.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])


def test_the_default_is_the_mean_over_latent_steps_but_the_last_and_tasks(build_round):
    """The released settings: the same terms, each reduction a mean, all steps but the last."""
    experiment = build_round()
    calls = record(experiment)
    run = run_rounds(experiment)
    per_step_and_per_task_gaps_have_one_mean(run)
    assert [step for step, *_ in calls] == list(range(4))
    per_row = torch.stack([value for *_, value in calls]).mean(0)
    assert run.metrics["train/loss/opd"] == pytest.approx(float(per_row.mean()), rel=1e-6)
    summed = run_rounds(
        build_round("loss.reduction=sum", "phase.step_reduction=sum", "phase.task_reduction=sum")
    )
    scale = math.prod(experiment.phase.model.latent_shape) * 4 * 3
    assert relative_distance(summed.flat_gradient(), scale * run.flat_gradient()) < 1e-5


def per_step_and_per_task_gaps_have_one_mean(run):
    steps = [run.metrics[f"train/step_gap/{step}"] for step in range(4)]
    tasks = [run.metrics[f"train/gap/{task}"] for task in TASKS]
    assert sum(steps) / 4 == pytest.approx(sum(tasks) / 3, rel=1e-5)
    losses = [run.metrics[f"train/step_loss/{step}"] for step in range(4)]
    assert sum(losses) / 4 == pytest.approx(run.metrics["train/loss/opd"], rel=1e-5)


def test_every_row_is_taught_by_its_own_teacher_at_its_own_guidance(build_round):
    experiment = build_round("states=all")
    calls = record(experiment)
    run_rounds(experiment)
    model, prompts = experiment.phase.model, experiment.data.batch(0)
    empty = model.encode([""])
    for _, latent, sigma, target, _ in (calls[0], calls[2], calls[4]):
        for row, task in enumerate(prompts.tasks):
            at, name = slice(row, row + 1), f"teacher_{task}"
            with torch.no_grad():
                given = model.velocity(latent[at], sigma[at], model.encode([prompts.texts[row]]), name)
                without = model.velocity(latent[at], sigma[at], empty, name)
            alone = without + GUIDANCE[task] * (given - without)
            assert relative_distance(target[at], alone) < 1e-5, task


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(build_round):
    same_shape = ("adapter.rank=3", "adapter.alpha=3", f"sampler.guidance_scale={GUIDANCE['ocr']}")
    experiment = build_round(*same_shape, "sampler.noise_level=0.7", experiment="sopd_ocr")
    copy_adapter(experiment.phase.model.transformer, "teacher_ocr", "student")
    run = run_rounds(experiment, student_seed=None)
    assert run.metrics["train/loss/opd"] == 0
    assert torch.equal(run.flat_gradient(), torch.zeros_like(run.flat_gradient()))


def test_the_average_moves_when_the_released_loops_move_theirs(build_round):
    """They count the update and then call their average: with an interval of 3, after updates 2 and 5."""
    experiment = build_round(
        "phase.ema.update_interval=3", "phase.ema.decay=0.9", "trainer.max_epochs=6", *TWO_STEPS
    )
    phase, states = experiment.phase, []
    take = phase.update

    def update():
        norm = take()
        states.append({name: weights_of(phase, name) for name in BOTH})
        return norm

    phase.update = update
    start = weights_of(phase, "average")
    experiment.fit()
    assert len(states) == 6
    expected = start
    for number, state in enumerate(states, start=1):
        if number in (2, 5):
            decay = min((1 + number) / (10 + number), 0.9)
            expected = {k: decay * v + (1 - decay) * state["student"][k] for k, v in expected.items()}
        for key, value in state["average"].items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-8)
    assert any(not torch.equal(start[key], value) for key, value in states[-1]["average"].items())


@pytest.mark.parametrize(("rounds", "exported"), [(6, "student"), (7, "average")])
def test_an_average_that_never_moved_is_not_exported(build_round, caplog, rounds, exported):
    experiment = build_round("phase.ema.update_interval=8", f"trainer.max_epochs={rounds}", *TWO_STEPS)
    experiment.fit()
    phase = experiment.phase
    saved = load_file(experiment.folder / "adapter" / "adapter_model.safetensors")
    assert exported_adapter(phase) == exported
    scale = phase.adapter.alpha / phase.adapter.rank  # which the file has in its factors B
    for key, value in phase.policies[exported].weights().items():
        written = scale * value if ".lora_B." in key else value
        assert torch.equal(saved[f"base_model.model.{key}"], written), key
    assert any(value.any() for key, value in saved.items() if ".lora_B." in key)
    assert ("the average has not moved yet" in caplog.text) == (exported == "student")


def test_the_student_alone_learns(build_round):
    experiment = build_round()
    phase = experiment.phase
    randomise(phase.model, "student", 7)
    before = {name: value.clone() for name, value in phase.named_parameters()}
    received, take = set(), phase.update

    def update():
        received.update(name for name, value in phase.named_parameters() if value.grad is not None)
        return take()

    phase.update = update
    experiment.fit()
    student = {name for name in before if ".student." in name}
    assert received == student
    changed = {name for name, value in phase.named_parameters() if not torch.equal(value, before[name])}
    assert changed == student | {name for name in before if ".average." in name}


@pytest.mark.parametrize("noise_level", [0.0, 0.7])
def test_micro_batches_change_nothing(build_round, noise_level):
    """Six rows in runs of four, so that a task falls into one run only, and runs differ in size."""
    common = (
        f"sampler.noise_level={noise_level}",
        "phase.task_reduction=sum",
        "phase.score_every_n_rounds=1",
    )
    whole = run_rounds(build_round(*common))
    parts = run_rounds(build_round(*common, "phase.micro_batch_size=4"))
    assert relative_distance(parts.flat_gradient(), whole.flat_gradient()) < 1e-5
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-4)
    assert ("train/loss/kl_nats" in whole.metrics) == (noise_level > 0)


def test_the_kl_of_all_steps_is_not_taken_from_steps_drawn_unevenly(build_round):
    """A step drawn with another probability than 1 / n would have to be weighted by that, not by n."""
    assert "train/loss/kl_nats" in run_rounds(build_round("sampler.noise_level=0.7", "states=subset")).metrics
    uneven = run_rounds(build_round("sampler.noise_level=0.7", "states=beta")).metrics
    assert "train/loss/kl_nats" not in uneven
    assert "train/loss/opd" in uneven


@pytest.mark.parametrize("num_teachers", [1, 2, 4])
def test_any_number_of_teachers(build_round, world, num_teachers):
    """Tasks count alike, whatever their number of prompts."""
    if num_teachers == 4:
        path = f"+teacher.teachers.signs.path={world.teachers['signs']}"
        experiment = build_round(path, *FOURTH_TEACHER)
    elif num_teachers == 2:
        left_out = ("~teacher.teachers.aesthetic", "~data.tasks.aesthetic")
        experiment = build_round(*left_out, "data.tasks.ocr.prompts_per_round=5")
    else:
        experiment = build_round(experiment="sopd_composition")
    assert len(experiment.phase.teacher.tasks) == num_teachers
    calls = record(experiment)
    run = run_rounds(experiment)
    tasks = experiment.data.batch(0).tasks
    per_row = torch.stack([value for *_, value in calls]).mean(0)
    by_task = [
        per_row[[row for row, name in enumerate(tasks) if name == task]].mean()
        for task in dict.fromkeys(tasks)
    ]
    assert len(by_task) == num_teachers
    assert run.metrics["train/loss/opd"] == pytest.approx(float(torch.stack(by_task).mean()), rel=1e-6)


@pytest.mark.parametrize("kind", ["fused", "two_pass"])
def test_one_step_is_in_memory_at_a_time(build_round, kind):
    experiment = build_round(f"phase.round={kind}")
    phase, held, alive = experiment.phase, [], []
    loss, forward = phase.loss, phase.model.velocity

    def watched_loss(student, teacher_velocity):
        held.extend([weakref.ref(student), weakref.ref(student.velocity), weakref.ref(student.mean)])
        return loss(student, teacher_velocity)

    def watched_forward(latent, sigma, conditioning, adapters=None):
        if torch.is_grad_enabled():
            alive.append(sum(reference() is not None for reference in held))
        return forward(latent, sigma, conditioning, adapters)

    phase.loss, phase.model.velocity = watched_loss, watched_forward
    experiment.fit()
    assert len(held) == 3 * 4
    assert alive == [0] * 4


def student_forwards(experiment):
    """A list that gets an entry for each of the student's forwards."""
    model, count = experiment.phase.model, []
    forward = model.velocity

    def counted(latent, sigma, conditioning, adapters=None):
        if adapters == "student":
            count.append(1)
        return forward(latent, sigma, conditioning, adapters)

    model.velocity = counted
    return count


def test_rewards_are_scored_when_asked_and_never_otherwise(build_round):
    def refuse(images, prompts):
        raise AssertionError("scored")

    never = build_round("states=all")
    never.phase.reward = refuse
    assert not any("reward" in name for name in run_rounds(never).metrics)

    every_second = build_round("phase.score_every_n_rounds=2", "trainer.max_epochs=3")
    scored_in, reward = [], every_second.phase.reward

    def noted(images, prompts):
        scored_in.append(every_second.phase.round)
        return reward(images, prompts)

    every_second.phase.reward = noted
    run = run_rounds(every_second)
    assert scored_in == [0, 2]
    rewards = {name for name in run.metrics if name.startswith("train/reward/")}
    assert rewards == {f"train/reward/{task}" for task in TASKS}
    assert run.metrics["train/cost/reward_calls"] == run.metrics["train/cost/images"] > 0


@pytest.mark.parametrize("setting", ["round", "step_reduction", "task_reduction"])
def test_an_unknown_choice_is_refused(build_round, setting):
    with pytest.raises(ValueError, match=rf"phase\.{setting}"):
        build_round(f"phase.{setting}=other")


def test_a_single_step_cannot_be_left_out(build_round):
    with pytest.raises(ValueError, match=r"states\.last=-2 leaves nothing"):
        build_round("sampler.num_steps=1")


def test_a_drawn_subset_is_weighted_to_the_mean_of_all_steps(build_round):
    """Over all subsets of one of two steps, the expected gradient is that of both."""
    both = run_rounds(build_round("states.first=2", "states.last=3"))
    single = {}
    for number in range(40):
        experiment = build_round("states.first=2", "states.last=3", "states.size=1")
        (drawn,) = experiment.phase.states.draw(5, torch_generator(number, "states", 0))
        if drawn not in single:
            experiment.phase.states = StepChoice(first=drawn, last=drawn, size=None, beta=None)
            single[drawn] = run_rounds(experiment)
        if len(single) == 2:
            break
    assert set(single) == {2, 3}
    mean = (single[2].flat_gradient() + single[3].flat_gradient()) / 2
    assert relative_distance(mean, both.flat_gradient()) < 1e-5


def test_a_rollout_stops_at_the_last_drawn_step(build_round):
    experiment = build_round("states=window", "states.last=2")
    counted = student_forwards(experiment)
    experiment.fit()
    assert len(counted) == 3


def test_the_ratio_leaves_one_after_the_first_update_of_a_rollout(build_round):
    common = ("phase.round=two_pass", "loss=reverse_kl", "estimator=ppo", "sampler.noise_level=0.7")
    once = run_rounds(build_round(*common))
    assert once.metrics["train/ratio"] == pytest.approx(1, abs=1e-6)
    experiment = build_round(*common, "phase.updates_per_round=2", "estimator.log_prob_reduction=sum")
    twice = run_rounds(experiment)
    assert len(twice.gradients) == 2
    assert abs(twice.metrics["train/ratio"] - 1) > 1e-6
    assert twice.metrics["train/gap/ocr"] > 0


def test_fused_and_two_pass_surrogates_agree(build_round):
    fused, two_pass = (
        run_rounds(build_round("sampler.noise_level=0.7", "estimator=log_ratio", f"phase.round={kind}"))
        for kind in ("fused", "two_pass")
    )
    assert fused.flat_gradient().norm() > 0
    assert relative_distance(fused.flat_gradient(), two_pass.flat_gradient()) < 1e-5


@pytest.mark.parametrize("kind", ["fused", "two_pass"])
def test_the_second_order_history_reaches_the_loss(build_round, kind):
    """Step 3 of dpm2 weighs the gap by the slope with history, not by dt."""
    experiment = build_round("sampler=dpm2", f"phase.round={kind}", "states.first=3", "states.last=3")
    calls, seen = record(experiment), []
    inner = experiment.phase.loss.loss

    def watched(student, teacher_velocity):
        seen.append((float(student.coefficient[0]), float(student.sigma_next[0] - student.sigma[0])))
        return inner(student, teacher_velocity)

    experiment.phase.loss.loss = watched
    run_rounds(experiment)
    assert len(calls) == 1
    ((coefficient, dt),) = seen
    assert abs(coefficient / dt - 1) > 0.01
