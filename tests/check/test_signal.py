"""Rounds without a signal are errors in every phase that learns from rewards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from diffopd.check import ConfigError, check_config
from diffopd.check.signal import LEARNS_FROM_REWARDS, signal_problems
from diffopd.check.source import read_target
from diffopd.phase.reward_learning import RewardPhase
from diffopd.reward.advantage import advantages

CONF = Path(__file__).parents[2] / "conf"
TARGETS = [yaml.safe_load(file.read_text())["_target_"] for file in sorted((CONF / "phase").glob("*.yaml"))]
REWARD_PHASES = [
    name
    for name in TARGETS
    if (read := read_target(name)) and read.constants.get("supervision") in LEARNS_FROM_REWARDS
]
ALONE = ["data.tasks.ocr.group_size=1"]


def test_the_phases_that_learn_from_rewards_are_all_known_and_log_one_share():
    assert REWARD_PHASES == ["diffopd.phase.GRPOPhase", "diffopd.phase.NFTPhase"]
    import diffopd.phase

    for name in TARGETS:  # judge() logs train/advantage/zero_share
        cls = getattr(diffopd.phase, name.rpartition(".")[2], None)
        assert (cls is not None and issubclass(cls, RewardPhase)) == (name in REWARD_PHASES), name


@pytest.mark.parametrize("experiment", ["teacher_ocr", "guard_ocr", "flow_grpo_ocr"])
def test_rounds_without_a_signal(composed, experiment):
    refused = "data.tasks.ocr.group_size=1 with prompts_per_round=1 leaves no signal"
    with pytest.raises(ConfigError, match=refused):
        check_config(composed(f"+experiment={experiment}", *ALONE, "data.tasks.ocr.prompts_per_round=1"))
    refused = "data.tasks.ocr.group_size=1 with phase.advantage_std=group leaves no signal"
    with pytest.raises(ConfigError, match=refused):
        check_config(composed(f"+experiment={experiment}", *ALONE, "phase.advantage_std=group"))
    check_config(composed(f"+experiment={experiment}", *ALONE))


def test_a_pair_needs_two_samples(composed):
    refused = "data.tasks.ocr.group_size=1 leaves no signal: the best sample of a prompt is preferred to the"
    with pytest.raises(ConfigError, match=refused):
        check_config(composed("+experiment=online_dpo_ocr", *ALONE))


@pytest.mark.parametrize("phase", REWARD_PHASES)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("std", ["global", "group"])
def test_what_is_an_error_is_what_has_no_signal_by_construction(phase, samples, prompts, std):
    entry = {"group_size": samples, "prompts_per_round": prompts}
    found = list(
        signal_problems({"phase": {"_target_": phase, "advantage_std": std}, "data": {"tasks": {"a": entry}}})
    )
    groups = [row // samples for row in range(samples * prompts)]
    rewards = torch.rand(len(groups), generator=torch.Generator().manual_seed(0))
    if not advantages(rewards, groups, std=std).any():
        assert found
    elif found:  # a deviation per prompt that nobody could take
        assert (samples, std) == (1, "group")
        assert re.search("advantage_std=global", found[0])


@pytest.mark.parametrize("experiment", ["teacher_aesthetic", "guard_aesthetic", "sopd_aesthetic"])
def test_parts_of_a_reward_are_not_compared_within_a_single_sample(composed, experiment):
    alone = "data.tasks.aesthetic.group_size=1"
    mixture = "reward.normalize=per_group"
    if "sopd" in experiment:
        mixture = "reward.rewards.aesthetic.normalize=per_group"
    place = mixture.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{alone} with {place}=per_group compares .*or {place}=none$"):
        check_config(composed(f"+experiment={experiment}", alone, mixture))
    check_config(composed(f"+experiment={experiment}", alone))
    check_config(composed(f"+experiment={experiment}", "data.tasks.aesthetic.group_size=2", mixture))
    if "sopd" in experiment:  # a reward that is never asked compares nothing
        check_config(composed(f"+experiment={experiment}", alone, mixture, "phase.score_every_n_rounds=0"))


def test_distillation_needs_no_second_sample(composed):
    check_config(composed("+experiment=sopd_ocr", "data.tasks.ocr.prompts_per_round=1"))
