"""The one table of settings that leave a run, an evaluation, a method or a training the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffopd.check.setting import Groups
from diffopd.config.folder import config_folder
from diffopd.config.harmless import EVALUATION, HARMLESS, METHOD, RUN, TRAINING, is_harmless

EVERY = (RUN, EVALUATION, METHOD, TRAINING)


def test_every_setting_of_the_table_is_one():
    keys = {
        str(key)
        for command in ("train", "evaluate")
        for key in OmegaConf.load(Path(config_folder()) / f"{command}.yaml")
    }
    assert {setting.partition(".")[0] for setting in HARMLESS} <= keys | set(Groups.read().choices)
    assert all(to in EVERY for harmless in HARMLESS.values() for to in harmless)


@pytest.mark.parametrize(
    ("setting", "harmless"),
    [
        ("name", EVERY),
        ("logger.csv.folder", (RUN, METHOD, TRAINING)),
        ("trainer.max_epochs", (RUN, METHOD)),
        ("trainer.enable_progress_bar", (RUN, METHOD)),
        ("trainer.gradient_clip_val", (METHOD,)),
        ("model.prompt_cache", (RUN, EVALUATION)),
        ("reward.timeout", (RUN,)),
        ("benchmark.metric.reward.batch_size", (RUN, EVALUATION, METHOD)),
        ("reward.batch_size", ()),
        ("seed", (METHOD,)),
        ("optimizer.lr", ()),
        ("a.setting.that.comes.later", ()),
    ],
)
def test_what_a_setting_leaves_the_same(setting, harmless):
    assert tuple(to for to in EVERY if is_harmless(setting, to)) == harmless
