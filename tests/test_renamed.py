"""A config saved by an earlier version builds, resumes and compares as before."""

from __future__ import annotations

from importlib import import_module

import pytest

from diffopd.config.renamed import MOVED, current_name, first_name, with_current_names


@pytest.mark.parametrize("module", MOVED.values())
def test_every_new_place_is_a_module(module):
    import_module(module)


def test_a_renamed_class_is_found_back():
    for old, new in MOVED.items():
        assert (current_name(f"{old}.A"), first_name(f"{new}.A")) == (f"{new}.A", f"{old}.A")


def test_only_targets_are_renamed_nested_or_flat():
    old, new = "diffopd.reward.ocr.OcrReward", "diffopd.reward.text.ocr.OcrReward"
    node = {"reward": {"rewards": [{"_target_": old, "name": old}]}, "seed": 1}
    assert with_current_names(node) == {"reward": {"rewards": [{"_target_": new, "name": old}]}, "seed": 1}
    assert with_current_names({"reward._target_": old, "name": old}) == {"reward._target_": new, "name": old}
    assert current_name("diffopd.optimizer.MuonAdamW") == "diffopd.optimizer.muon.MuonAdamW"
    assert current_name("diffopd.loss.OPD") == "diffopd.loss.OPD"
