"""The Dockerfile, as far as it can be read without Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from diffopd.__main__ import COMMANDS
from diffopd.check.combination import combination_problems
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.config.folder import config_folder

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in LINES]


def all_of(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def one(name: str) -> str:
    (found,) = all_of(name)
    return found


def copied() -> list[str]:
    return [source for rest in all_of("COPY") for source in rest.split()[:-1]]


def test_the_base_is_an_argument_given_first():
    assert INSTRUCTIONS[:2] == [("ARG", "BASE=python:3.11-slim"), ("FROM", "${BASE}")]
    assert "--build-arg BASE=" in PAGE


def test_arguments_are_those_of_the_page_and_are_used_after_they_are_given():
    names = [rest.partition("=")[0] for rest in all_of("ARG")]
    assert names == re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE)
    for name in names:
        assert TEXT.index(f"ARG {name}=") < TEXT.index(f"${{{name}}}")


def test_only_known_instructions():
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in INSTRUCTIONS} == known


def test_what_is_copied_exists_and_is_sent_to_the_builder():
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in patterns if line.startswith("!")}
    assert "*" in patterns
    assert sent == set(copied())
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not any(fnmatch(path, line.removeprefix("**/")) for line in patterns if line.startswith("**/"))


def test_installs_the_tested_versions():
    installs = [command for command in all_of("RUN") if "pip install" in command]
    assert len(installs) == 2
    assert all("-c constraints.txt" in command for command in installs)
    before = TEXT[: TEXT.index("pip install")]
    assert "COPY constraints.txt" in before


def test_the_entry_point_is_the_console_script_and_its_command_a_valid_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    (script,) = json.loads(one("ENTRYPOINT"))
    assert script in scripts
    program, *overrides = json.loads(one("CMD"))
    assert program in COMMANDS
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"$(RUN) {' '.join(overrides)} $(ARGS)" in makefile, "the demo"
    with initialize_config_dir(config_folder(), version_base="1.3"):
        values = plain_values(compose(program, overrides=overrides))
    assert [*setting_problems(values, program), *combination_problems(values)] == []


@pytest.mark.slow
def test_the_copied_files_make_a_wheel_with_all_configs(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in copied():
        place = ROOT / path
        if place.is_dir():
            shutil.copytree(place, source / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, source / path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("diffopd-*.whl"))).namelist())
    assert {f"diffopd/conf/{p.relative_to(ROOT / 'conf')}" for p in (ROOT / "conf").rglob("*.yaml")} <= names
