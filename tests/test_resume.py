"""Whether a run is finished: trained, reported, and with the same settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from diffopd.check import ConfigError
from diffopd.config.saved import CONFIG
from diffopd.run.finished import FINISHED, Finished, read_finished, write_finished
from diffopd.run.metrics_csv import read_rows
from diffopd.run.resume import find_checkpoint, is_finished
from diffopd.run.settings import check_same

QUICK = ("~report", "sampler.num_steps=3", "phase.num_timesteps=2", "phase.updates_per_round=1")
"""A specialist's rounds of few steps."""


def test_a_run_is_finished_once_it_is_trained_and_reported(world, tmp_path):
    folder = tmp_path / "run"
    run = world.build("teacher_aesthetic", folder, *QUICK)
    assert not is_finished(world.config("teacher_aesthetic", folder, *QUICK), folder)
    run.run()
    assert is_finished(world.config("teacher_aesthetic", folder, *QUICK), folder)
    noted = read_finished(folder)
    assert (noted.rounds, noted.max_rounds) == (2, 2)
    assert noted.recipe["images"] == noted.recipe["reward_calls"] == 2 * 2 * 3
    assert noted.recipe["minutes"] >= 0


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The folder of a run that is done; nothing may write into it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    world.build("teacher_aesthetic", folder, *QUICK).run()
    return folder


def test_more_rounds_or_a_fresh_start_are_not_finished(world, trained):
    for change in ("trainer.max_epochs=3", "resume=never"):
        assert not is_finished(world.config("teacher_aesthetic", trained, *QUICK, change), trained)


def test_another_run_in_the_folder_is_told(world, trained):
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  optimizer.lr: 0.002 -> 0.1"):
        is_finished(world.config("teacher_aesthetic", trained, *QUICK, "optimizer.lr=0.1"), trained)


def test_a_run_from_before_a_setting_existed_counts_as_if_it_had_the_neutral_one(world, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    saved = OmegaConf.load(folder / CONFIG)
    for key in ("compile", "attention_backend", "step_distilled", "lora_modules"):
        del saved.model[key]
    OmegaConf.save(saved, folder / CONFIG)
    assert is_finished(world.config("teacher_aesthetic", folder, *QUICK), folder)
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  model.compile: False -> True"):
        is_finished(world.config("teacher_aesthetic", folder, *QUICK, "model.compile=true"), folder)


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
    write_finished(tmp_path, Finished(rounds=2, max_rounds=2, recipe={}, inputs={}))

    def changed(*settings):
        return OmegaConf.merge(before, OmegaConf.from_dotlist(list(settings)))

    moved = changed("reward.rewards.ocr.address=http://b", "reward.rewards.ocr.timeout=2.0")
    assert is_finished(moved, tmp_path)
    assert is_finished(changed("phase.score_in_background=true"), tmp_path)
    assert is_finished(changed("model.prompt_cache=elsewhere"), tmp_path)
    with pytest.raises(ValueError, match=r"  reward\.rewards\.ocr\.scale: table -> training\n"):
        is_finished(changed("reward.rewards.ocr.scale=training"), tmp_path)


# What a run may go on with, and what is refused.


@pytest.fixture(scope="module")
def distilled(world, tmp_path_factory):
    """A run of two rounds with files of its own: ``(their folder, its config as JSON)``."""
    place = tmp_path_factory.mktemp("distilled")
    shutil.copytree(world.teachers["ocr"], place / "ocr")
    shutil.copytree(world.pipeline, place / "base")
    (place / "prompts.txt").write_text('a sign that says "CAT"\na sign that says "DOG"\n')
    overrides = (
        f"teacher.teachers.ocr.path={place / 'ocr'}",
        f"model.path={place / 'base'}",
        f"data.tasks.ocr.path={place / 'prompts.txt'}",
        "~report",
    )
    world.build("mopd_ode", place / "run", *overrides).run()
    cfg = world.config("mopd_ode", place / "run", *overrides)
    return place, json.dumps(OmegaConf.to_container(cfg, resolve=True))


@pytest.fixture
def moved(distilled, tmp_path):
    """The run and its files in another place: ``(their folder, its config)``."""
    place, cfg = distilled
    shutil.copytree(place, tmp_path / "copy")
    return tmp_path / "copy", OmegaConf.create(json.loads(cfg.replace(str(place), str(tmp_path / "copy"))))


@pytest.fixture
def again(moved):
    """``again(*changes, change=...)``: find the run's checkpoint after a change of its config or files."""

    def find(*changes, change=lambda folder: None):
        folder, cfg = moved
        change(folder)
        changed = OmegaConf.merge(cfg, OmegaConf.from_dotlist(["trainer.max_epochs=4", *changes]))
        return find_checkpoint(changed, folder / "run")

    return find


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_teachers_base_and_prompts_that_were_moved_with_the_run_are_the_same(again, tmp_path):
    assert again() == tmp_path / "copy" / "run" / "checkpoints" / "round_000002"


OTHER_FILES = {
    r"teacher\.teachers\.ocr\.path": lambda f: flip_a_bit(f / "ocr" / "adapter_model.safetensors"),
    r"model\.path": lambda f: flip_a_bit(next((f / "base" / "transformer").glob("*.safetensors"))),
    r"data\.tasks\.ocr\.path": lambda f: (f / "prompts.txt").write_text('a sign that says "COW"\n'),
}


@pytest.mark.parametrize("setting", OTHER_FILES)
def test_other_files_are_refused(again, setting):
    with pytest.raises(ValueError, match=rf"holds a run with other settings:\n  {setting}.*\nGive this run"):
        again(change=OTHER_FILES[setting])


def test_other_files_behind_the_same_path_are_refused(distilled, tmp_path):
    place, cfg = distilled
    kept = (place / "ocr" / "adapter_model.safetensors").read_bytes()
    try:
        flip_a_bit(place / "ocr" / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=r"ocr\.path=.*/ocr: the files have changed \(SHA-256 "):
            find_checkpoint(OmegaConf.create(json.loads(cfg)), place / "run")
    finally:
        (place / "ocr" / "adapter_model.safetensors").write_bytes(kept)


@pytest.mark.parametrize(
    "harmless",
    [
        "logger.tensorboard.save_dir=elsewhere",
        "callbacks.throughput=null",
        "callbacks.round_progress.seconds_per_line=1",
        "callbacks.round_checkpoint.every_n_rounds=7",
        "phase.score_every_n_rounds=1",
        "trainer.num_threads=2",
        "trainer.log_every_n_steps=5",
        "benchmark.seed=1",
    ],
)
def test_outputs_and_their_cadence_may_change(again, harmless):
    assert again(harmless).name == "round_000002"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=1", "  seed: 0 -> 1"),
        ("sampler.num_steps=5", "  sampler.num_steps: 10 -> 5"),
        ("trainer.precision=bf16-mixed", "  trainer.precision: 32-true -> bf16-mixed"),
        ("phase.gradient_clip=0.5", "  phase.gradient_clip: 1.0 -> 0.5"),
        ("teacher.teachers.ocr.guidance_scale=2.0", "  teacher.teachers.ocr.guidance_scale: None -> 2.0"),
    ],
)
def test_what_affects_the_result_may_not(again, change, told):
    with pytest.raises(ValueError, match="other settings:\n(.*\n)*" + re.escape(told)):
        again(change)


def test_more_rounds_are_another_schedule_where_the_learning_rate_ends_with_them(tmp_path):
    def saved(phase):
        cfg = OmegaConf.create({"resume": "auto", "trainer": {"max_epochs": 4}, "phase": phase})
        OmegaConf.save(cfg, tmp_path / CONFIG)
        return OmegaConf.merge(cfg, {"trainer": {"max_epochs": 8}})

    check_same(saved({"gradient_clip": 1.0}), tmp_path, {})
    with pytest.raises(ValueError, match=r"trainer\.max_epochs: 4 -> 8"):
        check_same(saved({"warmup_steps": 2}), tmp_path, {})
    check_same(saved({"lr_schedule": "constant"}), tmp_path, {})
    with pytest.raises(ValueError, match=r"trainer\.max_epochs: 4 -> 8"):
        check_same(saved({"lr_schedule": "linear"}), tmp_path, {})


def test_settings_that_came_later_are_what_they_were(tmp_path):
    before = OmegaConf.create({"phase": {"gradient_clip": 1.0}, "balance": {"power": 1.0}})
    OmegaConf.save(before, tmp_path / CONFIG)
    later = {"phase": {"lr_schedule": "constant", "warmup_rounds": 0}, "balance": {"num_first": 1}}
    check_same(OmegaConf.merge(before, later), tmp_path, {})
    with pytest.raises(ValueError, match=r"phase\.lr_schedule: .*constant.* -> cosine"):
        check_same(OmegaConf.merge(before, later, {"phase": {"lr_schedule": "cosine"}}), tmp_path, {})


def test_a_finished_run_with_other_teachers_is_told(moved):
    folder, cfg = moved
    assert is_finished(cfg, folder / "run")
    flip_a_bit(folder / "ocr" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"teacher\.teachers\.ocr\.path: .*, which has other files\n"):
        is_finished(cfg, folder / "run")


# What a folder says after a run was continued, cut, or moved.


class Stop(Callback):
    """SIGTERM in a round."""

    def __init__(self, in_round):
        self.in_round = in_round

    def on_train_batch_start(self, trainer, *_):
        if trainer.current_epoch == self.in_round:
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_note_of_an_end_is_gone_while_more_rounds_are_trained(world, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert read_finished(folder).rounds == 2
    run = world.build("teacher_aesthetic", folder, *QUICK, "trainer.max_epochs=6")
    run.trainer.callbacks.append(Stop(in_round=3))
    assert not run.run()
    assert read_finished(folder) is None
    fewer = world.config("teacher_aesthetic", folder, *QUICK)
    assert not is_finished(fewer, folder)
    with pytest.raises(ValueError, match=r"trainer\.max_epochs=2, and the run in .* has 4 rounds"):
        find_checkpoint(fewer, folder)
    more = world.build("teacher_aesthetic", folder, *QUICK, "trainer.max_epochs=6")
    assert more.run()
    assert (read_finished(folder).rounds, read_finished(folder).max_rounds) == (6, 6)
    assert read_finished(folder).recipe["images"] == 6 * 2 * 3
    rows = read_rows(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == [f"{number}.0" for number in range(6)]
    assert all("train/time/seconds_per_round" in row and "train/loss/nft" in row for row in rows)


def test_reporting_again_keeps_the_note(world, tmp_path):
    folder = tmp_path / "run"
    world.build("teacher_aesthetic", folder, *QUICK).run()
    before = (folder / FINISHED).read_bytes()
    world.build("teacher_aesthetic", folder, *QUICK).run()
    assert (folder / FINISHED).read_bytes() == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"damaged")])
def test_a_run_whose_weights_are_not_there_is_not_finished_and_makes_them_again(
    world, trained, tmp_path, caplog, damage
):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    cfg = world.config("teacher_aesthetic", folder, *QUICK)
    weights = folder / "adapter" / "adapter_model.safetensors"
    before = weights.read_bytes()
    assert is_finished(cfg, folder)
    damage(weights)
    assert not is_finished(cfg, folder)
    assert f"{weights} " in caplog.text
    world.build("teacher_aesthetic", folder, *QUICK).run()
    assert weights.read_bytes() == before
    assert is_finished(cfg, folder)


def test_a_run_of_no_batch_is_an_error_and_not_finished(world, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"no batch was trained .* trainer\.limit_train_batches"):
        world.build("teacher_aesthetic", folder, *QUICK, "+trainer.max_steps=0").run()
    assert not (folder / FINISHED).exists()


def test_a_run_with_its_checkpoints_elsewhere_resumes_bit_for_bit(world, tmp_path):
    def build(name, rounds):
        place = f"paths.checkpoints={tmp_path / name}_checkpoints"
        return world.build(
            "teacher_aesthetic", tmp_path / name, *QUICK, place, f"trainer.max_epochs={rounds}"
        )

    build("whole", 3).run()
    build("cut", 2).run()
    resumed = build("cut", 3)
    assert resumed.checkpoint == tmp_path / "cut_checkpoints" / "round_000002"
    resumed.run()
    assert not (tmp_path / "cut" / "checkpoints").exists()
    weights = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
