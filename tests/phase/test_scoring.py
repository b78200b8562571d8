"""What a reward fails at, or finds all alike, is left in the run's folder."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from PIL import Image

from diffopd.non_finite import NonFiniteError
from diffopd.types import Prompts
from support.tiny_runs import TASKS, run_rounds


class NotForOcr:
    """Finds no answer for one task's prompts."""

    def __call__(self, images, prompts):
        value = images.mean((1, 2, 3))
        value[[task == "ocr" for task in prompts.tasks]] = torch.nan
        return value


def brightness(images, prompts):
    return images.mean((1, 2, 3))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def one_round(world, folder, experiment, *overrides):
    return world.build(experiment, folder, "trainer.max_epochs=1", *overrides)


def test_a_reward_that_returns_a_tensor_trains(world, folder):
    experiment = one_round(world, folder, "teacher_aesthetic")
    experiment.phase.reward = brightness
    run = run_rounds(experiment)
    assert run.metrics["train/reward/aesthetic"] > 0
    assert run.flat_gradient().norm() > 0
    assert not (folder / "failed_reward").exists()


def test_the_sample_that_ends_a_training_is_saved(world, folder):
    experiment = one_round(world, folder, "teacher_ocr")
    experiment.phase.reward = NotForOcr()
    prompts = experiment.data.batch(0)
    with pytest.raises(NonFiniteError) as refused:
        experiment.fit()
    place = folder / "failed_reward" / "round_000001_ocr_00000"
    assert (
        f"reward (NotForOcr) returned 'value' = nan for sample 0 (task 'ocr', prompt {prompts.texts[0]!r}); "
        f"saved for inspection: {place}.png"
    ) in str(refused.value)
    facts = json.loads((place.parent / f"{place.name}.json").read_text())
    assert facts["prompt"] == prompts.texts[0]
    with Image.open(f"{place}.png") as picture:
        assert picture.size == (32, 32)


def test_held_out_rewards_are_named_as_such(world, folder):
    experiment = one_round(world, folder, "guard_ocr")
    experiment.phase.held_out["sound"] = brightness
    experiment.phase.held_out["faulty"] = NotForOcr()
    with pytest.raises(NonFiniteError, match=r"phase\.held_out\.faulty \(NotForOcr\) returned"):
        experiment.fit()
    assert (folder / "failed_reward" / "round_000001_ocr_00000.png").is_file()


def test_scored_rounds_of_a_distillation_fail_alike(world, folder):
    experiment = one_round(world, folder, "mopd_ode", "phase.score_every_n_rounds=1")
    experiment.phase.reward.rewards = dict.fromkeys(TASKS, NotForOcr())
    prompts = experiment.data.batch(0)
    first = prompts.tasks.index("ocr")
    with pytest.raises(NonFiniteError, match=rf"reward\.rewards\.ocr \(NotForOcr\) .* sample {first} "):
        experiment.fit()
    assert (folder / "failed_reward" / f"round_000001_ocr_{first:05d}.png").is_file()


def test_a_task_whose_samples_all_score_alike_is_warned_of(world, folder, caplog):
    class Lazy:
        def __call__(self, images, prompts):
            value = brightness(images, prompts)
            value[[task == "ocr" for task in prompts.tasks]] = 0.25
            return value

    experiment = one_round(world, folder, "teacher_aesthetic", "+data.tasks.ocr=${data.tasks.aesthetic}")
    experiment.phase.reward = Lazy()
    run = run_rounds(experiment)
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "round 1: reward (Lazy) is 0.25 for all 6 samples of task 'ocr', so nothing is learned from them; is "
        "the reward constant, or the task too hard? (saved for inspection: "
        f"{folder / 'failed_reward' / 'constant_ocr.png'})"
    )
    facts = json.loads((folder / "failed_reward" / "constant_ocr.json").read_text())
    assert warning.startswith(facts["problem"])
    assert facts["prompt"] in experiment.data.batch(0).texts
    assert run.flat_gradient().norm() > 0  # of the other task
    assert len(list((folder / "failed_reward").iterdir())) == 2


def test_a_single_sample_is_no_constant(world, folder):
    phase = one_round(world, folder, "teacher_aesthetic").phase
    prompts = Prompts(("x",) * 3, ("a", "b", "b"), ({},) * 3, (0, 1, 2), (0, 1, 1))
    assert phase.compared(torch.tensor([0.5, 0.5, 0.5]), prompts).constant == {"b": 0.5}
