"""`make mini-model` and `make mini-klein` as users call them: steps that find each other, none done twice."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from diffopd.config.folder import config_folder
from diffopd.files.paths import resolve_path
from diffopd.train import print_pipeline

MAKEFILE = Path(__file__).parents[1] / "Makefile"
STEPS = ("mini_autoencoder", "mini_pretrain", "mini_signs", "mini_more_signs", "mini_more")
SMALL = (
    "trainer.accelerator=cpu trainer.num_threads=1 trainer.max_epochs=1 "
    "data.num_drawings=8 data.batch_size=2 data.batches_per_round=1"
)


@pytest.fixture
def mini_model(tmp_path):
    """``mini_model(settings)`` in ``tmp_path``, with the environment of the tests."""

    def make(settings: str) -> str:
        command = ["make", "-f", MAKEFILE, "-o", "install", "mini-model"]
        result = subprocess.run(
            [*command, f"BIN={Path(sys.executable).parent}", f"ARGS={SMALL} {settings}"],
            cwd=tmp_path,
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return make


@pytest.mark.exhaustive  # five commands twice; the next test sees that they find each other
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_one_command_makes_the_model_and_repeated_leaves_it_alone(mini_model, tmp_path):
    first = mini_model("seed=3")
    folder = tmp_path / "runs" / STEPS[-1] / "seed3" / "pipeline"
    assert (folder / "model_index.json").is_file()
    last = first.splitlines()[-1]
    assert f"python -m diffopd.sample model.path={folder} " in last

    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert {path.relative_to(tmp_path).parts[1] for path in weights} == set(STEPS)
    again = mini_model("seed=3")
    assert again.count("already finished: ") == len(STEPS)
    assert again.splitlines()[-1] == last
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == weights


def test_every_step_starts_where_the_one_before_ended():
    lines = [line for line in MAKEFILE.read_text().splitlines() if "+experiment=mini_" in line]
    names = [line.split("+experiment=")[1].split()[0] for line in lines if "mini_klein" not in line]
    assert names == list(STEPS)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        steps = [compose("train", [f"+experiment={name}", "seed=5", "paths.root=runs"]) for name in names]
    for step in steps:
        step.paths.run = f"runs/{step.name}/{step.run_id}"
    for before, after in itertools.pairwise(steps):
        assert after.pipeline.path == before.phase.output == f"runs/{before.name}/seed5/pipeline"


def test_every_step_of_the_few_step_model_starts_where_the_one_before_ended():
    lines = [line for line in MAKEFILE.read_text().splitlines() if "+experiment=mini_klein_" in line]
    names = [line.split("+experiment=")[1].split()[0] for line in lines]
    assert names == ["mini_klein_autoencoder", "mini_klein_pretrain", "mini_klein_more", "mini_klein_distil"]
    assert all("if_finished=skip $(ARGS)" in line for line in lines)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        steps = [compose("train", [f"+experiment={name}", "seed=5", "paths.root=runs"]) for name in names]
    for step in steps:
        step.paths.run = f"runs/{step.name}/{step.run_id}"
    autoencoder, first, pretraining, distillation = steps
    assert first.pipeline.path == autoencoder.phase.output == "runs/mini_klein_autoencoder/seed5/pipeline"
    assert pretraining.pipeline.path == first.phase.output
    assert distillation.model.path == pretraining.phase.output
    teachers = distillation.teacher.teachers.values()
    assert {entry.path for entry in teachers} == {f"{pretraining.phase.output}/transformer"}
    assert distillation.callbacks.pipeline_export.folder == "runs/mini_klein_distil/seed5/pipeline"
    for name in ("mini_klein", "mini_klein_base"):  # what is shipped, until one's own is named
        with initialize_config_dir(config_folder(), version_base="1.3"):
            model = compose("train", [f"model={name}", "name=x", "paths.run=x"]).model
        assert model.path == f"package://assets/{name}"
        assert (Path(resolve_path(model.path)) / "model_index.json").is_file()


def test_the_few_step_model_and_its_base_are_small():
    assets = [Path(resolve_path(f"package://assets/{name}")) for name in ("mini_klein", "mini_klein_base")]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in assets]
    assert max(sizes) <= 20e6
    assert sum(sizes) <= 32e6


@pytest.mark.parametrize(("distilled", "choice"), [(False, "mini_klein_base"), (True, "mini_klein")])
def test_the_last_line_names_the_model_that_uses_it(tmp_path, monkeypatch, capsys, distilled, choice):
    monkeypatch.setattr("diffopd.run.finished.read_finished", lambda folder: object())
    (tmp_path / "pipeline").mkdir()
    index = {"_class_name": "Flux2KleinPipeline", "is_distilled": distilled}
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps(index))
    print_pipeline(tmp_path)
    assert f"diffopd.sample model={choice} model.path={tmp_path / 'pipeline'} " in capsys.readouterr().out
