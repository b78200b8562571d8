"""Sweeps: folders are named after what varies, never shared, and a sweep of nothing is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diffopd.command.program import REFUSED, command
from diffopd.config.sweep import LONGEST_NAME, setting_name

pytestmark = pytest.mark.usefixtures("no_hydra_traces")

SHORT = "+experiment=mini_autoencoder"
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Run the training command up to its first step; the folder of each job, below ``runs/``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        folders = []

        @command("train")
        def main(cfg):
            folders.append(str(Path(HydraConfig.get().runtime.output_dir).relative_to(tmp_path / "runs")))

        monkeypatch.setattr("diffopd.command.program.check_config", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        main()
        return folders

    return call


def recipe() -> list[str]:
    """Arguments of the longest command of the page about published teachers."""
    text = (DOCS / "published_teachers.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^python -m diffopd\.train (.*)$", text, re.MULTILINE)
    return line.split()


def test_the_recipe_of_published_teachers_can_be_swept(sweep, tmp_path):
    assert len(" ".join(recipe())) > 800
    assert sweep("-m", *recipe(), "seed=0,1") == ["published/seed0", "published/seed1"]
    saved = OmegaConf.load(tmp_path / "runs/published/seed1/.hydra/config.yaml")
    assert (saved.seed, saved.optimizer.lr, saved.phase.micro_batch_size) == (1, 3e-4, 6)
    rates = sweep("-m", *recipe(), "optimizer.lr=1e-4,2e-4", "seed=0,1", "debug=true")
    assert rates == [
        f"published/optimizer.lr={lr}/seed{seed}" for lr in ("0.0001", "0.0002") for seed in (0, 1)
    ]


def test_what_the_rest_of_the_path_does_not_name_is_in_the_folder(sweep):
    assert sweep("-m", SHORT, "trainer.num_threads=1,2") == [
        f"mini_autoencoder/trainer.num_threads={count}/seed0" for count in (1, 2)
    ]
    assert sweep("-m", SHORT, "seed=0,1", "run_id=x") == [
        f"mini_autoencoder/seed={seed}/x" for seed in (0, 1)
    ]
    assert sweep("-m", "+experiment=mini_autoencoder,mini_pretrain", "name=both") == [
        f"both/+experiment={name}/seed0" for name in ("mini_autoencoder", "mini_pretrain")
    ]


def test_an_ablations_file_names_its_folders_as_before(sweep):
    assert sweep("+experiment=ablation/balance", "optimizer.lr=1e-4") == [
        f"ablation_balance/balance={choice}/seed{seed}"
        for choice in ("equal", "remaining_gap")
        for seed in (0, 1, 2)
    ]


def test_long_and_odd_values_are_hashed_and_stay_apart(sweep):
    long = ["a/" * 200 + end for end in ("x", "y")]
    folders = sweep("-m", SHORT, f"phase.output={','.join(long)}")
    assert len(set(folders)) == 2
    assert all(len(part) <= LONGEST_NAME for folder in folders for part in folder.split("/"))


@pytest.mark.parametrize("nothing", ["seed=range(3,1)", "seed=glob(*)", "+experiment=glob(nothing*)"])
def test_a_sweep_of_nothing_is_an_error(sweep, capsys, nothing):
    with pytest.raises(SystemExit) as end:
        sweep("-m", SHORT, nothing) if "seed" in nothing else sweep("-m", nothing, "name=x")
    assert end.value.code == REFUSED
    assert f"config error: {nothing} comes to no value" in capsys.readouterr().err


def test_two_settings_that_would_share_a_folder_are_an_error(sweep, capsys):
    with pytest.raises(SystemExit) as end:
        sweep("-m", SHORT, "seed=0,1", "hydra.sweep.subdir=one")
    assert end.value.code == REFUSED
    assert (
        "two settings of the sweep would share the folder runs/mini_autoencoder/one: seed=1 and seed=0"
        in (capsys.readouterr().err)
    )


def test_experiments_are_swept_under_a_name(sweep, capsys):
    with pytest.raises(SystemExit) as end:
        sweep("-m", "+experiment=mini_autoencoder,mini_pretrain")
    assert end.value.code == REFUSED
    assert "a sweep over experiments needs a name" in capsys.readouterr().err


def test_a_launcher_that_hydra_ignores_is_named(sweep, tmp_path, capsys):
    conf = tmp_path / "conf"
    (conf / "hydra/launcher").mkdir(parents=True)
    (conf / "hydra/launcher/other.yaml").write_text("_target_: hydra_plugins.their.Launcher\n")
    (conf / "experiment").mkdir()
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /experiment/mini_autoencoder\n"
        "  - override /hydra/launcher: other\n  - _self_\n"
    )
    sweep("--config-dir", str(conf), "+experiment=mine")
    shown = capsys.readouterr().out
    assert "the launcher hydra_plugins.their.Launcher is for sweeps" in shown
    sweep("--config-dir", str(conf), "-m", "+experiment=mine,mini_autoencoder", "name=x")
    shown = capsys.readouterr().out
    named = "+experiment=mine names the launcher hydra_plugins.their.Launcher, "
    assert named + "which a sweep over experiments ignores" in shown
    assert shown.count("which a sweep over experiments ignores") == 1


SETTINGS = st.dictionaries(st.sampled_from(["a", "b.c", "+d"]), st.text(max_size=120), min_size=1)


@given(SETTINGS, SETTINGS)
def test_different_settings_have_different_names_that_any_file_system_takes(one, other):
    names = [setting_name(settings) for settings in (one, other)]
    assert all(len(name) <= LONGEST_NAME and re.fullmatch(r"[\w.+@=,-]+", name, re.ASCII) for name in names)
    assert (names[0] == names[1]) == (one == other)
