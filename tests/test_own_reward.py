"""What docs/own_reward.md shows works as it stands there: a reward in a user's file, a task by config."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import diffopd.types
from diffopd.check.combination import combination_problems
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.config.arguments import hydra_arguments
from diffopd.config.folder import config_folder
from diffopd.evaluation import EvaluationResult, check_scorer
from diffopd.teacher import TeacherCard
from support import copies
from support.tiny_runs import run_rounds

PAGE = (Path(__file__).parents[1] / "docs" / "own_reward.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w*\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL))
COMMANDS = [
    shlex.split(line.removeprefix("python -m diffopd."))
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
]
FEW = [f"benchmark.tasks.{task}.num_prompts=2" for task in ("composition", "ocr", "aesthetic", "redness")]
FEW += ["benchmark.sampler.num_steps=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with the page's files; commands are run there."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_reward", raising=False)
    return tmp_path


def test_the_page_shows_files_and_commands():
    assert set(FILES) == {"my_reward.py", "redness.txt", "redness_test.txt", "my_conf/benchmark/redness.yaml"}
    assert [program for program, *_ in COMMANDS] == ["train", "evaluate", "evaluate", "train", "train"]
    assert len(FILES["my_reward.py"].splitlines()) <= 10


def test_the_file_trains_a_specialist_for_two_rounds(world, folder):
    _, experiment, *overrides = COMMANDS[0]
    assert experiment == "+experiment=teacher_aesthetic"
    small = [*overrides, *world.overrides("teacher_aesthetic")]
    built = world.build("teacher_aesthetic", folder / "run", *small)
    assert type(built.phase.reward).__module__ == "my_reward"
    images = torch.tensor([0.8, 0.2, 0.4]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert built.phase.reward(images, built.data.batch(0).select([0])).tolist() == pytest.approx([0.5])
    run = run_rounds(built)
    assert len(run.gradients) == 8  # two rounds of four updates
    assert abs(run.metrics["train/reward/aesthetic"]) > 1e-4
    assert run.metrics["train/advantage/zero_share"] < 0.5


def test_the_pair_by_which_it_may_be_checked():
    (method,) = re.findall(r"```python\n(    def known_pair.*?)```", PAGE, flags=re.DOTALL)
    names = {"torch": torch, "diffopd": diffopd}
    exec(f"{FILES['my_reward.py']}\n{method}", names)
    (line,) = check_scorer(names["Redness"](), "reward")
    assert line == "reward (Redness): check passed, 1 for a good image, 0 for a bad one"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("folder")
def test_commands_pass_the_checks(command):
    program, *arguments = command
    if arguments[0] == "--config-dir":
        arguments = [f"hydra.searchpath=[file://{Path.cwd() / arguments[1]}]", *arguments[2:]]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        values = plain_values(compose(program, overrides=hydra_arguments(arguments)))
    assert [*setting_problems(values, program), *combination_problems(values)] == []


@pytest.mark.slow
def test_commands_run_one_after_the_other(world, folder):
    teacher = world.overrides("teacher_aesthetic")
    of_own_task = [setting for setting in teacher if not setting.startswith("data.tasks.")]
    specialist, base, trained, own_teacher, student = COMMANDS
    run(folder, *specialist, *teacher)
    means = []
    for run_id, command in (("base", base), ("trained", trained)):
        few = ("benchmark.num_prompts=2", "benchmark.sampler.num_steps=2", "num_threads=1", "device=cpu")
        run(folder, *command, *few, f"model.path={world.pipeline}", f"run_id={run_id}")
        result = EvaluationResult.load(folder / "runs" / "evaluate" / "prompts" / run_id / "results.json")
        means.append(result.tasks["prompts"].value.mean)
    assert means[0] != means[1]
    run(folder, *own_teacher, *of_own_task, *FEW, "data.tasks.redness.group_size=3")
    card = TeacherCard.load(folder / "runs" / "teacher_redness" / "seed0" / "adapter", setting="path")
    assert card.task == "redness"
    assert set(card.scores["mini_redness"]) == {"composition", "ocr", "aesthetic", "redness"}
    run(folder, *student, *world.overrides("mopd_ode"), *FEW)
    table = (folder / "runs" / "mopd_redness" / "seed0" / "report" / "table.md").read_text()
    assert "teacher: redness" in table


def run(folder, program, *arguments):
    result = copies.run(folder, program, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
