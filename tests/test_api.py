"""``import diffopd``: the commands as functions, with the same results, and exceptions in place of exits."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from inspect import ismodule
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import diffopd
from diffopd import api
from diffopd.api import evaluation, export, sampling, training
from diffopd.command import called
from diffopd.command.called import call_command, equivalent_arguments
from diffopd.command.ending import EndedFromOutsideError
from diffopd.config.folder import config_folder
from diffopd.evaluation import EvaluationResult
from diffopd.host.signals import INTERRUPTED, Ended
from diffopd.run.finished import read_finished
from diffopd.run.lock import locked
from support.tiny_runs import TASKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "from_python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
FEW = [f"benchmark.tasks.{task}.num_prompts=2" for task in TASKS] + ["benchmark.sampler.num_steps=2"]


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The working directory of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def small(world, monkeypatch):
    """Every config that a function composes is of the tiny model, few prompts and few steps."""
    more = {
        "train": [*world.overrides("mopd_ode"), *FEW],
        "sample": [f"model.path={world.pipeline}", "sampler.num_steps=2", "device=cpu"],
        "evaluate": [f"model.path={world.pipeline}", "device=cpu", "num_threads=1", *FEW],
        "export": ["device=cpu"],
    }

    def composed(name, overrides, **settings):
        mine = [given for given in overrides if not given.startswith("model.path=")]
        return whole(name, [*mine, *more[name]], **settings)

    whole = called.compose_command
    for module in (evaluation, export, sampling, training):
        monkeypatch.setattr(module, "compose_command", composed)
    return world


# The surface.


def test_the_import_brings_nothing_along():
    """Every command imports the package first, and a mistake in a config is told in a moment."""
    program = (
        "import sys, diffopd; heavy = {'torch', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "diffopd.compose('mopd_ode', ['sampler=cps'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_public_names_are_what_the_package_of_functions_brings_together():
    brought = {name for name, value in vars(api).items() if not name.startswith("_") and not ismodule(value)}
    assert set(diffopd.__all__) == brought
    tree = ast.parse(Path(diffopd.__file__).read_text())
    (typed,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "diffopd.api"
    )
    assert [alias.name for alias in typed.names] == diffopd.__all__
    for name in diffopd.__all__:
        assert getattr(diffopd, name) is getattr(api, name)
        assert name in dir(diffopd)
    shown = {named.rpartition(".")[2] for named in re.findall(r"^::: (diffopd\S+)", PAGE, re.MULTILINE)}
    defined = {getattr(api, name).__module__.rpartition(".")[2] for name in diffopd.__all__}
    assert defined - shown == {
        "called",
        "error",
    }  # StoppedError is shown alone, and ConfigError in docs/check.md
    assert "StoppedError" in shown
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = diffopd.nothing


def test_no_public_name_is_a_module():
    """``diffopd.train`` is the command's module as soon as somebody has imported it."""
    modules = {entry.stem for entry in (ROOT / "src" / "diffopd").iterdir()}
    assert not modules & set(diffopd.__all__)


# Configs.


def test_a_config_is_the_commands(user):
    overrides = ["sampler=cps", "seed=3", "run_id=007", "trainer.max_epochs=5"]
    ours = diffopd.compose("mopd_ode", overrides)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        given = ["+experiment=mopd_ode", *overrides[:2], "run_id='007'", overrides[3]]
        theirs = compose("train", overrides=[*given, f"paths.run={user}/runs/mopd_ode/007"])
    assert OmegaConf.to_container(ours, resolve=True) == OmegaConf.to_container(theirs, resolve=True)


def test_the_runs_folder_follows_a_changed_config(user):
    config = diffopd.compose("mopd_ode", ["paths.root=elsewhere"])
    assert config.paths.run == str(user / "elsewhere" / "mopd_ode" / "seed0")
    config.seed, config.name = 4, "other"
    assert config.paths.run == str(user / "elsewhere" / "other" / "seed4")
    assert config.callbacks.round_checkpoint.folder == f"{config.paths.run}/checkpoints"
    assert diffopd.compose("mopd_ode", ["paths.run=mine"]).paths.run == "mine"


def test_the_command_of_a_config(user):
    config = diffopd.compose("mopd_ode", ["seed=3"], config_dir=user)
    assert equivalent_arguments(config) == ("--config-dir", str(user), "+experiment=mopd_ode", "seed=3")
    config.optimizer.lr = 0.5
    assert equivalent_arguments(config) == (f"from={user}/runs/mopd_ode/seed3",)


def test_a_config_folder_of_ones_own(user):
    (user / "conf" / "experiment").mkdir(parents=True)
    (user / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - mopd_ode\n  - _self_\nname: mine\n"
    )
    assert diffopd.compose("mine", config_dir=user / "conf").name == "mine"


@pytest.mark.parametrize(
    ("experiment", "overrides", "message"),
    [
        ("mopd_odd", [], r"experiment=mopd_odd: there is no such choice; did you mean experiment=mopd_ode\?"),
        ("mopd_ode", ["sampler=cpss"], r"sampler=cpss: there is no such choice; did you mean sampler=cps\?"),
        ("mopd_ode", ["sampler.num_step=8"], r"sampler\.num_step is not a setting of sampler; did you mean"),
        (
            "mopd_ode",
            ["seed=0,1"],
            r"seed=0,1: several values are a sweep, .* a list is written seed=\[0,1\]",
        ),
        ("mopd_ode", "seed=1", r"overrides='seed=1' must be a list of texts"),
        ("+experiment=mopd_ode", [], r"must be the name alone, as in compose\('mopd_ode'\)"),
    ],
)
def test_what_cannot_be_composed(experiment, overrides, message):
    with pytest.raises(diffopd.ConfigError, match=message):
        diffopd.compose(experiment, overrides)


def test_a_program_that_uses_hydra_itself_keeps_it():
    with initialize_config_dir(config_folder(), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        diffopd.compose("mopd_ode")
        assert GlobalHydra.instance().hydra is before
    assert not GlobalHydra.instance().is_initialized()


# Ends.


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        (Ended(INTERRUPTED), diffopd.StoppedError, "asked to end before it was done; the same call resumes"),
        (Ended(2), diffopd.StoppedError, "exit code 2; its message is on stderr"),
        (SystemExit(0), EndedFromOutsideError, r"sys\.exit\(0\) in"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (ZeroDivisionError("x"), ZeroDivisionError, "x"),
    ],
)
def test_no_call_ends_the_program(end, error, message, user):
    def run(cfg):
        raise end

    with pytest.raises(error, match=message):
        call_command(run, diffopd.compose("mopd_ode"), "train")


def test_a_config_that_cannot_work_is_an_error_of_the_call(user):
    config = diffopd.compose("mopd_ode", ["sampler.num_steps=0"])
    for call in (diffopd.train_model, diffopd.build_experiment):
        with pytest.raises(diffopd.ConfigError, match=r"sampler\.num_steps=0 must be"):
            call(config)
    with pytest.raises(diffopd.ConfigError, match=r"^adapter=nowhere: there is no such folder"):
        diffopd.evaluate_model("nowhere", overrides=["device=cpu"])
    with pytest.raises(diffopd.ConfigError, match="nowhere"):
        diffopd.load_model(adapter="nowhere", device="cpu")
    with pytest.raises(
        diffopd.ConfigError, match=r"^model=runs/x: there is no such choice; a folder of weights"
    ):
        diffopd.load_model("runs/x", device="cpu")
    with pytest.raises(diffopd.ConfigError, match=r"^device=cuda:99: this machine has .*; take auto or cpu"):
        diffopd.load_model(device="cuda:99")


def test_a_config_that_is_none_of_composes(user):
    for call in (diffopd.train_model, diffopd.build_experiment):
        with pytest.raises(
            diffopd.ConfigError, match=r"^config must be what diffopd\.compose\(\.\.\.\) returns"
        ):
            call(OmegaConf.create({"trainer": {"max_epochs": 3}}))
        with pytest.raises(diffopd.ConfigError, match=r"^name is required; start from an experiment"):
            call(diffopd.compose())


# Runs.


def test_a_run_is_found_again(small, user):
    few = ["~report", "trainer.max_epochs=2", "sampler.num_steps=4"]
    first = diffopd.train_model(diffopd.compose("mopd_ode", few))
    assert first.folder == user / "runs" / "mopd_ode" / "seed0"
    assert first.is_finished
    assert len(first.metrics) == 2
    assert first.scores == {}
    assert first.result is None
    assert first.config.name == "mopd_ode"
    command = read_finished(first.folder).recipe["command"]
    assert command.startswith("python -m diffopd.train +experiment=mopd_ode '~report'")
    again = diffopd.train_model(diffopd.compose("mopd_ode", few))
    assert len(again.metrics) == 2
    other = diffopd.compose("mopd_ode", ["~report"])
    other.sampler.num_steps = 3
    with pytest.raises(diffopd.ConfigError, match=r"(?s)holds a run with other settings:.*num_steps: 4 -> 3"):
        diffopd.train_model(other)


def test_a_folder_in_use(small, user, monkeypatch):
    monkeypatch.setitem(locked.__wrapped__.__kwdefaults__, "wait", 0.0)
    config = diffopd.compose("mopd_ode", ["~report"])
    with locked(Path(config.paths.run)), pytest.raises(diffopd.ConfigError, match="is using"):
        diffopd.train_model(config)


def test_a_run_without_an_adapter(user):
    with pytest.raises(ValueError, match="holds no adapter: the run is not finished, or it trained a whole"):
        _ = diffopd.Run(user).adapter
    with pytest.raises(ValueError, match=r"holds no config\.yaml; give the folder of a run"):
        _ = diffopd.Run(str(user)).config  # type: ignore[arg-type]


# Images.


def test_images_of_several_adapters(small, user):
    model = diffopd.load_model(adapter={"one": small.teachers["ocr"], "two": small.teachers["aesthetic"]})
    assert model.adapters == ("one", "two")
    prompts = ["a photo of a red circle", "a photo of a blue square"]
    drawn = {
        name: diffopd.sample_images(model, prompts, num_images=2, adapter=name, guidance_scale=1)
        for name in (None, "one", "two")
    }
    assert {images.shape for images in drawn.values()} == {(4, 3, 32, 32)}
    assert not drawn["one"].equal(drawn["two"])
    assert not drawn["one"].equal(drawn[None])
    alone = diffopd.load_model(adapter=small.teachers["aesthetic"])
    single = diffopd.sample_images(alone, prompts[1], num_images=2, guidance_scale=1)
    torch.testing.assert_close(single, drawn["two"][2:], rtol=0, atol=1e-5)
    sheet = diffopd.image_sheet(drawn["one"], ["a", "b", "c", "d"], num_columns=2)
    assert sheet.width > 2 * 128
    for settings, message in (
        ({}, "adapter: the model has several, name one of one, two"),
        ({"adapter": "three"}, "adapter=three: the model has one, two; load it with"),
        ({"adapter": "one", "num_images": 0}, "num_images=0 must be at least 1"),
        ({"adapter": "one", "batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"adapter": "one", "guidance_scale": -1.0}, r"guidance_scale=-1\.0 must be a number from 0"),
        ({"adapter": "one", "seed": -1}, "seed=-1 must be a whole number from 0 to 4294967295"),
    ):
        with pytest.raises(ValueError, match=message):
            diffopd.sample_images(model, prompts, **settings)
    with pytest.raises(ValueError, match="got 4 images, 2 labels"):
        diffopd.image_sheet(drawn["one"], ["a", "b"])
    with pytest.raises(ValueError, match="no prompt is given"):
        diffopd.sample_images(model, [], adapter="one")


# The page.


def test_the_page_shows_every_function():
    shown = "\n".join(SNIPPETS)
    functions = [name for name in diffopd.__all__ if name[0].islower() and name != "push_to_hub"]
    assert [name for name in functions if f"diffopd.{name}(" not in shown] == []


@pytest.mark.slow
def test_the_snippets_of_the_page_run_one_after_the_other(small, user, capsys):
    names = {}
    teacher = str(small.teachers["ocr"])
    for snippet in SNIPPETS:
        snippet = snippet.replace("package://assets/teachers/ocr", teacher)  # on the tiny model
        exec(compile(snippet, "docs/from_python.md", "exec"), names)
    told = capsys.readouterr().out
    output = re.findall(r"```\n(.*?)```", PAGE.split("## Errors")[1], flags=re.DOTALL)[0]
    assert output in told
    run = names["run"]
    assert set(run.scores) == set(TASKS)
    assert f"{run.folder} {run.scores}" in told
    assert (user / "cat.png").is_file()
    student = names["student"]
    assert EvaluationResult.load(student.folder / "results.json") == student.result
    assert student.sheet.is_file()
    assert (user / "exports" / "student" / "README.md").is_file()
    assert names["folder"] == Path("exports/student")
    assert read_finished(run.folder).recipe["command"] == f"python -m diffopd.train from={run.folder}"
