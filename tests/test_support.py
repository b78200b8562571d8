"""What the tests rely on to be quick changes nothing."""

from __future__ import annotations

import os
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from diffopd.config.folder import config_folder
from support import copies, cpu_seconds
from support.slow import slow_but

COMMAND_LINES = [
    ["+experiment=mopd_sde", "reward=picture_quality", "optimizer.lr=1e-3", "+optimizer.foreach=false"],
    ["+experiment=guard_ocr", "~callbacks.round_progress", "~report", "trainer=ddp", "seed=3"],
    ["+experiment=flow_opd", "loss@regulariser.loss=tdm", "+data.tasks.mine={path: a, prompts_per_round: 1}"],
]


def composed(overrides):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("train", overrides=overrides, return_hydra_config=True)


@pytest.mark.parametrize("overrides", COMMAND_LINES)
def test_a_config_of_remembered_choices_is_the_one_composed_anew(remembered_choices, overrides, monkeypatch):
    found = [composed(overrides) for _ in range(2)]
    found[0].name = "another"  # a copy: what a test does to its config reaches no other
    with monkeypatch.context() as patch:
        remembered_choices.uninstall(patch)
        expected = composed(overrides)
    assert OmegaConf.to_yaml(found[1]) == OmegaConf.to_yaml(expected)
    assert OmegaConf.is_struct(found[1])


def test_a_choice_that_does_not_exist_is_refused_each_time():
    for _ in range(2):
        with pytest.raises(ConfigCompositionException, match="Could not override 'no_such_group'"):
            composed(["no_such_group=a"])


def test_seconds_are_summed_by_folder_and_by_test(tmp_path):
    file = tmp_path / "cpu.jsonl"
    cpu_seconds.note(file, "tests/flow/test_a.py::test_x[1]", 1.0)
    cpu_seconds.note(file, "tests/flow/test_a.py::test_x[2]", 2.5)
    cpu_seconds.note(file, "tests/test_b.py::test_y", 4.0)
    lines = [line.split(maxsplit=2) for line in cpu_seconds.table(file).splitlines() if line]
    assert [(seconds, name) for seconds, _, name in lines] == [
        ("4.0", "tests"),
        ("3.5", "tests/flow"),
        ("7.5", "in all"),
        ("4.0", "tests/test_b.py::test_y"),
        ("3.5", "tests/flow/test_a.py::test_x"),
    ]


def test_representatives_that_are_not_there_are_an_error():
    kept, left = slow_but(["a", "b"], "a")
    assert (kept, left.values, [mark.name for mark in left.marks]) == ("a", ("b",), ["exhaustive"])
    with pytest.raises(ValueError, match="are not among"):
        slow_but(["a", "b"], "c")


def test_a_copy_keeps_no_byte_code(tmp_path, monkeypatch):
    """It is compiled with the suite's shape checks, which a Python of its own does not have."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "own_program.py").write_text("import own_part\n")
    (tmp_path / "own_part.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with open(os.devnull, "w") as nowhere:
        number = nowhere.fileno()
        assert copies.Copy(lambda: copies._as_python("own_program", []), number, number).wait(60) == 0
    assert not (tmp_path / "__pycache__").exists()
