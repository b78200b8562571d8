"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from diffopd.adapter import export_lora, load_adapter
from diffopd.config.arguments import hydra_arguments
from diffopd.config.folder import config_folder
from diffopd.model.untrained import pipeline_to_train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m diffopd\.(\w+) (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def test_the_readme_begins_with_the_two_commands():
    block = README.split("```")[1].splitlines()
    assert [line.split("#")[0].split() for line in block[1:3]] == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


def test_the_readme_shows_how_to_train_sample_and_evaluate():
    assert {program for program, _ in COMMANDS} == {"train", "sample", "evaluate"}


@pytest.mark.parametrize(("program", "line"), COMMANDS)
def test_commands_compose(program, line):
    arguments = [a for a in hydra_arguments(shlex.split(line)) if a != "-m"]
    first_of_each_sweep = [re.sub(r"=([\d.]+),.*", r"=\1", argument) for argument in arguments]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        assert compose(program, overrides=first_of_each_sweep)


def test_the_snippet_runs_with_stock_diffusers(tmp_path, monkeypatch):
    pipeline = pipeline_to_train(path=str(ROOT / "src/diffopd/assets/mini_sd3"))
    load_adapter(pipeline.transformer, "student", ROOT / "src/diffopd/assets/teachers/ocr")
    export_lora(pipeline.transformer, "student", tmp_path / "runs/mopd_ode/seed0/lora")
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "cat.png").stat().st_size > 0
