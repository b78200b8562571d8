"""The teacher of one's own in docs/teacher.md: the student's average, told more. One class, nothing else."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class

from diffopd.build.experiment import build as build_experiment
from diffopd.check import ConfigError, check_config
from diffopd.report.run.at_end import DistillationReport
from support.tiny_runs import relative_distance, run_rounds

PAGE = (Path(__file__).parents[2] / "docs" / "teacher.md").read_text(encoding="utf-8")
CODE = re.search(r"```python\n(import torch.*?class SelfTeacher.*?)```", PAGE, re.DOTALL)[1]
COMMAND = next(block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "my_teacher" in block)
SETTINGS = shlex.split(COMMAND.replace("\\\n", ""))[4:]
FEW = ("states=all", "reward=picture_quality", "phase.score_every_n_rounds=0")


@pytest.fixture
def build(world, tmp_path, monkeypatch):
    """``build(folder, *overrides)``: what the page shows, on the tiny world."""
    (tmp_path / "my_teacher.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def built(folder, *more):
        return build_experiment(world.config("mopd_ode", tmp_path / folder, *SETTINGS, *FEW, *more))

    return built


def test_the_student_learns_from_its_average_that_is_told_more(build):
    run = build("run", "trainer.max_epochs=1")
    phase, seen = run.phase, []
    assert isinstance(phase.teacher, get_class("my_teacher.SelfTeacher"))
    loss = phase.loss
    phase.loss = lambda student, target: (
        seen.append((student.latent, student.sigma, target)),
        loss(student, target),
    )[1]
    rounds = run_rounds(run)
    prompts = run.data.batch(0)
    told = phase.model.encode([f"{text} in the snow" for text in prompts.texts])
    empty = phase.model.unconditional()
    latent, sigma, target = seen[0]
    assert len(seen) == phase.sampler.num_steps
    with torch.no_grad():  # the average was the base model's equal when the round was taken
        given = phase.model.velocity(latent, sigma, told, None)
        without = phase.model.velocity(latent, sigma, empty.expand(len(latent)), None)
    assert relative_distance(target, without + 2.0 * (given - without)) < 1e-5
    assert rounds.metrics["train/loss/opd"] > 0
    assert rounds.flat_gradient().norm() > 0


def test_a_report_that_compares_teachers_is_an_error_before_anything_is_trained(world, build, tmp_path):
    reported = [setting for setting in SETTINGS if setting not in ("~report", "~benchmark")]
    message = "report=distillation compares a student with its teachers, and .*SelfTeacher is no set of"
    with pytest.raises(ConfigError, match=message):
        check_config(world.config("mopd_ode", tmp_path / "run", *reported, *FEW))
    report = DistillationReport(batch_size=1, rows_per_task=1, prompts_searched=1)
    with pytest.raises(ValueError, match="and SelfTeacher is no set of teachers; leave the report out"):
        report.check({"teacher": get_class("my_teacher.SelfTeacher")(template="{}", guidance_scale=1.0)})


@pytest.mark.slow
def test_the_average_follows_and_a_resumed_run_is_the_same(build):
    settings = ("callbacks.round_checkpoint.every_n_rounds=1",)
    whole = build("whole", "trainer.max_epochs=3", *settings)
    start = {key: value.detach().clone() for key, value in whole.phase.average.weights().items()}
    whole.fit()
    build("cut", "trainer.max_epochs=2", *settings).fit()
    resumed = build("cut", "trainer.max_epochs=3", *settings)
    assert resumed.checkpoint is not None
    resumed.fit()
    for name in ("student", "average"):
        expected, found = (run.phase.policies[name].weights() for run in (whole, resumed))
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    after = whole.phase.average.weights()
    assert any(not torch.equal(start[key], after[key]) for key in start)
