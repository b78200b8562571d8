"""``diffopd.convert`` as users call it, and every command that its page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd import convert
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.config.arguments import hydra_arguments
from diffopd.config.folder import config_folder
from support.tiny_scorers import bert_tokenizer, save_clip, save_head, save_imagereward, save_open_clip

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reward.md").read_text(encoding="utf-8")
HELP = (ROOT / "conf" / "convert.yaml").read_text(encoding="utf-8")


def commands(text):
    joined = text.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ *python -m diffopd\.convert (.*)$", joined, re.M)]


def composed(arguments):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("convert", overrides=hydra_arguments(arguments, **convert.TERMS))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """A folder with the released files under their own names, and tokenizers where the page has them."""
    folder = tmp_path_factory.mktemp("downloads")
    save_open_clip(folder / "HPS_v2.1_compressed.pt")
    save_imagereward(folder / "ImageReward.pt")
    save_head(folder / "sac+logos+ava1-l14-linearMSE.pth")
    save_clip(folder / "models" / "clip-vit-h-14")
    bert_tokenizer().save_pretrained(folder / "models" / "bert-base-uncased")
    return folder


def test_page_and_help_show_the_same_commands():
    assert commands(PAGE) == commands(HELP)
    assert {c[0] for c in commands(PAGE)} == {"reward=hpsv2", "reward=imagereward", "reward=laion_aesthetic"}


@pytest.mark.parametrize("arguments", commands(PAGE), ids=lambda arguments: arguments[0])
def test_commands_of_the_page_run(downloads, monkeypatch, capsys, arguments):
    monkeypatch.chdir(downloads)
    cfg = composed([*arguments, "paths.run=run"])
    assert list(setting_problems(plain_values(cfg), "convert")) == []
    convert.run(cfg)
    reward, target = (arguments[n].partition("=")[2] for n in (0, 2))
    assert f"reward={reward} reward.path={target}" in capsys.readouterr().out
    assert (downloads / target / "model.safetensors").is_file()


def test_a_converted_folder_is_used_as_the_page_says(conf_dir):
    trained, measured = re.findall(r"Then `(.*?)` trains on it, and\n`(.*?)` measures it", PAGE)[0]
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=teacher_aesthetic", *trained.split()])
        assert list(setting_problems(plain_values(cfg), "train")) == []
        assert (cfg.reward.path, cfg.reward.scale) == ("models/hpsv2", "training")
        overrides = ["benchmark=prompts", "benchmark.path=prompts.txt", *measured.split()]
        cfg = compose("evaluate", overrides=overrides)
        assert list(setting_problems(plain_values(cfg), "evaluate")) == []
        reward = cfg.benchmark.metric.reward
        assert (reward.path, reward.scale) == ("models/hpsv2", "table")


def test_places_are_taken_as_they_are():
    cfg = composed(["reward=hpsv2", "from=a, (b)/x=y.pt", "to={c} 'd'"])
    assert cfg["from"] == "a, (b)/x=y.pt"
    assert cfg["to"] == "{c} 'd'"


@pytest.mark.slow
def test_the_command_ends_with_one_message_on_a_mistake(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    command = [sys.executable, "-m", "diffopd.convert", "reward=laion_aesthetic", f"paths.root={tmp_path}"]
    command += [f"from={tmp_path / 'list.pt'}", f"to={tmp_path / 'out'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "list.pt holds a list, not a state dict of names and tensors" in result.stderr
    assert "Traceback" not in result.stderr
