"""A config saved by an earlier version builds, resumes and compares as before."""

from __future__ import annotations

from importlib import import_module

import pytest

from diffopd.config.renamed import (
    MOVED,
    RENAMED,
    current_name,
    first_name,
    with_current_names,
    with_first_names,
)


@pytest.mark.parametrize("module", MOVED.values())
def test_every_new_place_is_a_module(module):
    import_module(module)


@pytest.mark.parametrize("old", RENAMED)
def test_every_new_name_is_there(old):
    module, _, name = current_name(old).rpartition(".")
    assert callable(getattr(import_module(module), name))
    assert first_name(current_name(old)) == old


def test_only_targets_are_renamed_nested_or_flat():
    old, new = "diffopd.reward.ocr.OcrReward", "diffopd.reward.text.ocr.OcrReward"
    node = {"reward": {"rewards": [{"_target_": old, "name": old}]}, "seed": 1}
    assert with_current_names(node) == {"reward": {"rewards": [{"_target_": new, "name": old}]}, "seed": 1}
    assert with_current_names({"reward._target_": old, "name": old}) == {"reward._target_": new, "name": old}
    assert current_name("diffopd.optimizer.MuonAdamW") == "diffopd.optimizer.muon.MuonAdamW"
    assert current_name("diffopd.loss.OPD") == "diffopd.loss.OPD"


@pytest.mark.parametrize("old", MOVED)
def test_a_first_name_is_found_again(old):
    assert first_name(f"{MOVED[old]}.Thing") in {
        f"{name}.Thing" for name in MOVED if MOVED[name] == MOVED[old]
    }
    assert current_name(first_name(f"{MOVED[old]}.Thing")) == f"{MOVED[old]}.Thing"


def test_digests_are_made_of_first_names():
    new = {"metric.reward._target_": "diffopd.reward.text.ocr.OcrReward", "metric.parts": ["exact"]}
    assert with_first_names(new) == {**new, "metric.reward._target_": "diffopd.reward.ocr.OcrReward"}
    assert first_name("my_reward.Redness") == "my_reward.Redness"
