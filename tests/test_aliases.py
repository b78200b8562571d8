"""The choices of conf/aliases.yaml are chosen, overridden and built on as files are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffopd.config.aliases import aliases, choices
from diffopd.config.folder import config_folder
from support.slow import slow_but

PRIMARY = {"metric": "evaluate", "claims": "report", "wins": "table"}
ADDED = ("experiment", "variant", "metric", "task")


def composed(config_name, *overrides):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(config_name, overrides=list(overrides))


OF_TASKS = [
    alias
    for alias in aliases()
    if alias.startswith("experiment/") and alias.endswith(("_composition", "_aesthetic"))
]
"""Experiments of which the one on text is composed each time."""


@pytest.mark.parametrize(
    "alias", slow_but(aliases(), *(set(aliases()) - set(OF_TASKS)), rest=pytest.mark.slow)
)
def test_every_alias_composes(alias):
    group, _, name = alias.rpartition("/")
    sign = "+" if group in ADDED else ""
    assert composed(PRIMARY.get(group, "train"), f"{sign}{group}={name}")


def test_no_file_has_the_name_of_an_alias():
    for alias in aliases():
        group, _, name = alias.rpartition("/")
        assert name in choices(group)
        assert not (Path(config_folder()) / group / f"{name}.yaml").exists()
        assert list((Path(config_folder()) / group).glob("*.yaml")), (
            "a group has a folder, even if all else are aliases"
        )


@pytest.mark.parametrize("experiment", ["guard", "flow_grpo", "ram", "rvm", "few_step", "online_dpo"])
@pytest.mark.parametrize("task", slow_but(["composition", "ocr", "aesthetic"], "ocr", rest=pytest.mark.slow))
def test_an_experiment_with_a_task_is_the_one_named_after_it(experiment, task):
    named = composed("train", f"+experiment={experiment}_{task}")
    assert named == composed("train", f"+experiment={experiment}", f"task={task}", f"name={named.name}")


def test_a_task_is_a_reward_prompts_and_a_teacher():
    student = composed("train", "+experiment=mopd_ode", "task=ocr")
    assert list(student.data.tasks) == list(student.teacher.teachers) == ["ocr"]
    assert student.reward._target_.endswith(".OcrReward")
    specialist = composed("train", "+experiment=teacher", "task=ocr")
    assert list(specialist.data.tasks) == ["ocr"]
    assert "teacher" not in specialist
    every = composed("train", "+experiment=teacher_ocr", "task=all")
    assert list(every.data.tasks) == ["composition", "ocr", "aesthetic"]
    assert every.reward._target_.endswith(".RewardByTask")


def test_an_alias_is_overridden_and_built_on_as_a_file_is(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults: [teacher_ocr, override /reward: spectrum, _self_]\nname: own\n"
    )
    own = composed("train", f"hydra.searchpath=[file://{tmp_path}]", "+experiment=own")
    expected = composed("train", "+experiment=teacher_ocr", "reward=spectrum", "name=own")
    assert own == expected
    assert own.reward._target_.endswith(".SpectrumReward")


def test_any_reward_can_be_measured():
    chosen = ("benchmark=prompts", "metric@benchmark.metric=mean", "reward@benchmark.metric.reward=spectrum")
    mean = composed("evaluate", *chosen).benchmark.metric
    named = composed("evaluate", "benchmark=prompts", "metric@benchmark.metric=spectrum").benchmark.metric
    assert OmegaConf.merge(mean, {"parts": named.parts}) == named
