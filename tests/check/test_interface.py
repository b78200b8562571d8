"""What a config builds is of the kind that stands in its place, and an optimizer can take a step."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate

from diffopd.build.experiment import build
from diffopd.check import ConfigError, check_config
from diffopd.check.interface import KINDS, interface_problems
from diffopd.check.paths import WRITTEN, WRITTEN_FILES
from diffopd.check.setting import Groups, targets_of
from diffopd.check.trial import check_optimizers
from diffopd.config.folder import config_folder
from diffopd.optimizer.muon import MuonAdamW
from support.slow import slow_but

ODE = "+experiment=mopd_ode"
LISTED = ("callbacks", "logger")
PLACES = {
    group: f"{group}.x" if group in LISTED else group for group in Groups.read().choices if targets_of(group)
}
NEVER = (
    "builtins.print",
    "builtins.dict",
    "os.getcwd",
    "pathlib.Path",
    "torch.optim",
    "diffopd.loss",
    "math.pi",
)
FITTING = ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam",
           "RMSprop", "Rprop", "SGD")  # fmt: skip


@pytest.mark.parametrize("group", PLACES)
def test_every_choice_of_every_group_is_of_its_kind_and_pythons_own_is_of_none(group):
    for target in targets_of(group):
        assert list(interface_problems(PLACES[group], {"_target_": target})) == []
    for target in NEVER:
        (problem,) = interface_problems(PLACES[group], {"_target_": target})
        assert problem.startswith(f"{PLACES[group]}._target_={target} is ")


@pytest.mark.parametrize("place", [place for place, kind in KINDS.items() if kind.base or kind.needed])
def test_a_class_of_another_kind_is_an_error(place):
    other = "diffopd.adapter.LoRA" if place != "adapter" else "diffopd.states.StepChoice"
    (problem,) = interface_problems(place.replace("*", "x"), {"_target_": other})
    assert f"_target_={other} must be {KINDS[place].name}" in problem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer._target_=torch.optim.LBFGS", "optimizer._target_=torch.optim.LBFGS cannot be used"),
        ("optimizer._target_=torch.optim.SparseAdam", "takes sparse gradients alone"),
        ("optimizer._target_=builtins.print", "is Python's own, and must be a torch optimizer"),
        ("optimizer._target_=os.getcwd", "is Python's own, and must be a torch optimizer"),
        ("optimizer._target_=torch.optim", "optimizer._target_=torch.optim is a module; name a class in it"),
        (
            "optimizer._target_=torch.nn.Linear",
            "must be a torch optimizer, derived from torch.optim.optimizer",
        ),
        ("trainer._target_=builtins.dict", "is Python's own, and must be a Lightning Trainer"),
        ("+reward._args_=[1]", "reward._args_ is not a setting: arguments are given by their names"),
        ("+optimizer.params=[1]", "optimizer.params is not a setting: the phase gives it"),
    ],
)
def test_targets_without_a_fit(composed, override, message):
    with pytest.raises(ConfigError) as refused:
        check_config(composed(ODE, override))
    assert message in str(refused.value)


@pytest.mark.parametrize("name", FITTING)
def test_torchs_optimizers_pass_the_trial(name):
    check_optimizers({"optimizer": functools.partial(getattr(torch.optim, name), lr=1e-3)}, named=False)


@pytest.mark.parametrize(
    ("factory", "named", "message"),
    [
        (
            functools.partial(torch.optim.AdamW, betas=(0.9,)),
            False,
            "optimizer cannot be used with these settings: ",
        ),
        (functools.partial(torch.optim.AdamW, betas=(0.9, 0.9, 0.9)), False, "too many values"),
        (functools.partial(torch.optim.AdamW, foreach=True, fused=True), False, "cannot both be True|fused"),
        (functools.partial(torch.optim.AdamW, lr=1e308), False, "finite|overflow|too large|converted"),
        (functools.partial(torch.optim.AdamW, lr=1e-300), False, "changes nothing; is the learning rate too"),
        (torch.optim.LBFGS, False, "closure"),
        (torch.optim.SparseAdam, False, "dense gradients"),
        (torch.tensor, False, "optimizer cannot be used"),
        (lambda parameters: None, False, "it makes a NoneType, and a torch optimizer is needed"),
    ],
)
def test_what_fails_in_a_step_is_one_line(factory, named, message):
    with pytest.raises(ConfigError, match=message) as refused:
        check_optimizers({"optimizer": factory}, named=named)
    assert "\n" not in str(refused.value)


def test_muon_needs_names():
    file = Path(config_folder()) / "optimizer" / "muon.yaml"
    factory = instantiate(yaml.safe_load(file.read_text()))
    assert factory.func is MuonAdamW
    check_optimizers({"optimizer": factory}, named=True)
    with pytest.raises(ConfigError, match=r"by their names, .* choose optimizer=adamw"):
        check_optimizers({"optimizer": factory}, named=False)


def test_a_run_is_refused_before_its_model_loads(composed, on_disk, tmp_path, monkeypatch):
    from diffopd.model import SD3Model

    monkeypatch.setattr(SD3Model, "__init__", lambda *_, **__: pytest.fail("weights were loaded"))
    cfg = composed(ODE, *on_disk, f"paths.run={tmp_path / 'run'}", "optimizer=muon", "optimizer.lr=1e-3")
    with pytest.raises(
        ConfigError, match=r"^optimizer cannot be used with these settings: .*optimizer=adamw"
    ):
        build(cfg)


FOLDERS = [
    "paths.checkpoints", "callbacks.round_checkpoint.folder", "callbacks.adapter_export.peft_folder",
    "callbacks.adapter_export.lora_folder", "logger.csv.folder", "trainer.default_root_dir",
    "model.prompt_cache",
]  # fmt: skip


@pytest.mark.parametrize("place", slow_but(["/dev/null", "file", "file/below"], "file/below"))
def test_folders_that_cannot_be_made(composed, on_disk, tmp_path, place):
    (tmp_path / "file").write_text("")
    folder = place if place.startswith("/") else str(tmp_path / place)
    for setting in FOLDERS:
        cfg = composed(ODE, *on_disk, f"paths.run={tmp_path / 'run'}", f"{setting}={folder}")
        with pytest.raises(ConfigError) as refused:
            check_config(cfg)
        assert f"{setting}={folder}: " in str(refused.value)
        assert "is a file, where a folder is needed; give a folder that can be made" in str(refused.value)


def test_a_file_whose_folder_cannot_be_made(composed, on_disk, tmp_path):
    (tmp_path / "file").write_text("")
    place = f"callbacks.leak_test.file={tmp_path / 'file' / 'leak.json'}"
    with pytest.raises(
        ConfigError, match=r"callbacks\.leak_test\.file=.*leak\.json: .* give a file in a folder"
    ):
        check_config(composed(ODE, *on_disk, f"paths.run={tmp_path / 'run'}", place))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux has a folder in which nothing can be made")
def test_a_folder_in_which_nothing_can_be_made(composed, on_disk, tmp_path):
    with pytest.raises(ConfigError, match=r"^model.prompt_cache=/proc/x: nothing can be made in /proc"):
        check_config(composed(ODE, *on_disk, f"paths.run={tmp_path / 'run'}", "model.prompt_cache=/proc/x"))


def test_every_folder_that_conf_writes_to_is_looked_at():
    """Whatever lies in the run's folder by default is a folder that is written to."""
    import re
    from fnmatch import fnmatchcase

    for file in sorted(Path(config_folder()).rglob("*.yaml")):
        group = file.relative_to(config_folder()).parts[0]
        if group in ("hydra", "experiment", "variant", "paths", "benchmark", "rows") or group.endswith(
            ".yaml"
        ):
            continue
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            found = re.match(r"( *)(\w+): \$\{paths\.\w+\}", line)
            if not found:
                continue
            parent = next(
                (
                    above.split(":")[0].strip()
                    for above in lines[number::-1]
                    if re.match(r"\w+:", above) and found[1]
                ),
                "",
            )
            group_path = "" if "@package _global_" in lines[0] else f"{group}."
            setting = f"{group_path}{parent + '.' if parent else ''}{found[2]}"
            assert any(fnmatchcase(setting, pattern) for pattern in (*WRITTEN, *WRITTEN_FILES)), (
                file,
                setting,
            )
