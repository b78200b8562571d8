"""Every experiment composes, builds and takes two updates on the tiny model."""

from __future__ import annotations

import math

import pytest

from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint
from diffopd.config.aliases import choices
from support.slow import slow_but
from support.tiny_runs import REWARD_LEARNING, WITHOUT_REWARD, run_rounds, tasks_of

EXPERIMENTS = choices("experiment")
MEASUREMENTS = ("gradient_variance",)  # train nothing; tests/phase has theirs
OF_ANY_TASK = (
    "teacher",
    "guard",
    "flow_grpo",
    "ram",
    "rvm",
    "few_step",
    "online_dpo",
)  # those named after their task, such as teacher_ocr, are these
MINI_MODEL = (
    "mini_autoencoder",
    "mini_pretrain",
    "mini_signs",
    "mini_more_signs",
    "mini_more",
    "mini64_autoencoder",
    "mini64_pretrain",
    "mini64_more",
    "mini_klein_autoencoder",
    "mini_klein_pretrain",
    "mini_klein_more",
)


def test_there_are_experiments():
    assert {"mopd_ode", "mopd_sde", "teacher_ocr", "sopd_ocr", *MINI_MODEL} <= set(EXPERIMENTS)


TRAINED = [name for name in EXPERIMENTS if name not in (*MINI_MODEL, *MEASUREMENTS, *OF_ANY_TASK)]
OF_EACH_KIND = ("flow_opd", "multi_guard")
"""Each time, tests/check/test_config.py composes and checks every experiment that has a file."""
TASKS = ("ocr", "composition", "aesthetic")
ALIKE = [
    f"{name}_{task}"
    for number, name in enumerate((*OF_ANY_TASK, "self_opd", "sopd"))
    for task in TASKS
    if task != TASKS[number % len(TASKS)]
]
"""Of experiments that differ in their task alone two of three; which one is left differs among them."""


@pytest.mark.parametrize(
    "name",
    [
        *slow_but([name for name in TRAINED if name not in ALIKE], *OF_EACH_KIND, rest=pytest.mark.slow),
        *slow_but(ALIKE),
    ],
)
def test_an_experiment_takes_two_updates_with_its_own_rewards(world, tmp_path, name):
    run = run_rounds(world.build(name, tmp_path / "run"), student_seed=None)
    if name in ("guard_ocr", "flow_grpo_ocr"):  # an untrained model writes nothing: equal rewards, no step
        assert run.metrics["train/advantage/zero_share"] == 1
        assert not run.gradients
    else:
        assert len(run.gradients) >= 2
    assert all(map(math.isfinite, run.metrics.values()))
    rewards = {metric for metric in run.metrics if metric.startswith("train/reward/")}
    one_task = name.startswith(("flow_opd", "dance"))  # in a round
    tasks = tasks_of(name)[:1] if one_task else tasks_of(name)
    assert rewards == {f"train/reward/{task}" for task in tasks if name not in WITHOUT_REWARD}
    if not name.startswith(REWARD_LEARNING):  # an untrained model's rewards may be equal
        assert run.flat_gradient(-1).norm() > 0
    assert (tmp_path / "run" / "config.yaml").is_file()
    saved = read_checkpoint(latest_valid_checkpoint(tmp_path / "run" / "checkpoints"))
    assert saved["global_step"] == len(run.gradients)


@pytest.mark.parametrize(
    "name",
    slow_but(MINI_MODEL, "mini_autoencoder", "mini_pretrain", "mini_klein_pretrain"),
)
def test_a_step_of_the_mini_model_saves_a_pipeline(world, tmp_path, name):
    experiment = world.build(name, tmp_path / "run")
    before = {k: v.clone() for k, v in experiment.phase.state_dict().items()}
    experiment.fit()
    assert experiment.trainer.global_step == 2
    assert math.isfinite(experiment.trainer.callback_metrics["train/loss"])
    after = experiment.phase.state_dict()
    assert any(not before[key].equal(after[key]) for key in before)
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()
