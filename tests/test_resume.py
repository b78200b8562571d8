"""Whether a run is finished: trained, reported, and with the same settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent / "phase"))

from tiny_runs import make_world

from diffopd.resume import CONFIG, FINISHED, is_finished, mark_finished


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("resume"))


def test_a_run_is_finished_once_it_is_trained_and_reported(world, tmp_path):
    folder = tmp_path / "run"
    run = world.build("teacher_aesthetic", folder, "~report")
    assert not is_finished(world.config("teacher_aesthetic", folder, "~report"), folder)
    run.run()
    assert is_finished(world.config("teacher_aesthetic", folder, "~report"), folder)
    noted = json.loads((folder / FINISHED).read_text())
    assert noted["max_rounds"] == 2
    assert noted["recipe"]["images"] == noted["recipe"]["reward_calls"] == 2 * 2 * 3
    assert noted["recipe"]["minutes"] >= 0


def test_more_rounds_or_a_fresh_start_are_not_finished(world, tmp_path):
    folder = tmp_path / "run"
    world.build("teacher_aesthetic", folder, "~report").run()
    for change in ("trainer.max_epochs=3", "resume=never"):
        assert not is_finished(world.config("teacher_aesthetic", folder, "~report", change), folder)


def test_another_run_in_the_folder_is_told(world, tmp_path):
    folder = tmp_path / "run"
    world.build("teacher_aesthetic", folder, "~report").run()
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  optimizer.lr: 0.002 -> 0.1"):
        is_finished(world.config("teacher_aesthetic", folder, "optimizer.lr=0.1"), folder)


def test_a_run_from_before_a_setting_existed_counts_as_if_it_had_the_neutral_one(world, tmp_path):
    folder = tmp_path / "run"
    world.build("teacher_aesthetic", folder, "~report").run()
    saved = OmegaConf.load(folder / CONFIG)
    for key in ("compile", "attention_backend", "step_distilled", "lora_modules"):
        del saved.model[key]
    OmegaConf.save(saved, folder / CONFIG)
    assert is_finished(world.config("teacher_aesthetic", folder, "~report"), folder)
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  model.compile: False -> True"):
        is_finished(world.config("teacher_aesthetic", folder, "model.compile=true"), folder)


def test_students_count_rollouts_and_only_the_rewards_they_asked_for(world, tmp_path):
    settings = ("reward=picture_quality", "phase.score_every_n_rounds=2", "~report")
    world.build("mopd_ode", tmp_path / "run", *settings).run()
    recipe = json.loads((tmp_path / "run" / FINISHED).read_text())["recipe"]
    assert recipe["images"] == 2 * 3 * 2  # rounds, tasks, prompts
    assert recipe["reward_calls"] == 3 * 2


def test_where_and_when_a_reward_is_computed_may_change(tmp_path):
    before = {"resume": "auto", "trainer": {"max_epochs": 2}, "phase": {"score_in_background": False}}
    before["reward"] = {"rewards": {"ocr": {"address": "http://a", "timeout": 1.0, "scale": "table"}}}
    OmegaConf.save(OmegaConf.create(before), tmp_path / "config.yaml")
    mark_finished(tmp_path, 2, {}, {})

    def changed(*settings):
        return OmegaConf.merge(before, OmegaConf.from_dotlist(list(settings)))

    moved = changed("reward.rewards.ocr.address=http://b", "reward.rewards.ocr.timeout=2.0")
    assert is_finished(moved, tmp_path)
    assert is_finished(changed("phase.score_in_background=true"), tmp_path)
    assert is_finished(changed("model.prompt_cache=elsewhere"), tmp_path)
    with pytest.raises(ValueError, match=r"  reward\.rewards\.ocr\.scale: table -> training\n"):
        is_finished(changed("reward.rewards.ocr.scale=training"), tmp_path)
