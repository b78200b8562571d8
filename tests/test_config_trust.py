"""A saved config of somebody else runs nobody's code but this package's, unless the user says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from diffopd import replay, train
from diffopd.config.folder import config_folder
from diffopd.config.saved import from_arguments
from diffopd.config.trust import offered_targets, read_saved
from diffopd.export.source import read_source

pytestmark = pytest.mark.usefixtures("no_hydra_traces")

EVIL = "import pathlib\npathlib.Path('ran').touch()\ndef call(*args, **settings): pass\n"
FOREIGN = {
    "a function of torch": {"model": {"_target_": "torch.hub.load", "repo_or_dir": ".", "source": "local"}},
    "a module beside the config": {"callbacks": {"x": {"_target_": "evil.call"}}},
    "deep inside": {"x": {"y": [{"z": {"_target_": "evil.call"}}]}},
    "a function of this package": {"loss": {"_target_": "diffopd.train.main"}},
    "what a module of this package imports": {"loss": {"_target_": "diffopd.loss.opd.torch.hub.load"}},
    "what a module of a library imports": {"optimizer": {"_target_": "torch.optim.adamw.torch.hub.load"}},
    "lightning's reader of pickles": {"x": {"_target_": "lightning.LightningModule.load_from_checkpoint"}},
    "hydra's way to any function": {"loss": {"_target_": "hydra.utils.get_method", "path": "os.system"}},
    "no name at all": {"loss": {"_target_": ["evil", "call"]}},
    "a name by reference": {"x": "evil.call", "loss": {"_target_": "${x}"}},
    "a node by a resolver": {"loss": "${oc.create:{_target_:evil.call}}"},
    "the environment": {"name": "${oc.env:HOME}"},
    "the environment by its name": {"reward": {"token_variable": "AWS_SECRET_ACCESS_KEY"}},
    "a partial": {"phase": {"_target_": "evil.call", "_partial_": True}},
}


@pytest.fixture(scope="module")
def saved() -> DictConfig:
    """A config as a run saves it."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=mopd_ode", "paths.run=runs/a"])
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))


@pytest.fixture
def run(tmp_path, monkeypatch, saved):
    """``run(changes)``: a run's folder with a config that was tampered with, beside its author's module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    (tmp_path / "evil.py").write_text(EVIL)

    def make(changes):
        folder = tmp_path / "run"
        (folder / "adapter").mkdir(parents=True)
        cfg = OmegaConf.merge(saved, changes)
        OmegaConf.save(cfg, folder / "config.yaml")
        return folder

    return make


def test_what_the_config_groups_offer_is_found():
    offered = offered_targets()
    assert {
        "diffopd.loss.OPD",
        "lightning.Trainer",
        "torch.optim.AdamW",
        "diffopd.data.prompts.PromptData",
    } <= offered
    assert all(name.startswith(("diffopd.", "lightning.", "torch.optim.")) for name in offered)


def test_a_runs_own_config_passes(run):
    assert read_saved(run({}) / "config.yaml", setting="from=run", trusted=False).name == "mopd_ode"


@pytest.mark.parametrize(
    "target", ["torch.optim.SGD", "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.callbacks.Timer"]
)
def test_the_libraries_own_classes_pass(run, target):
    read_saved(run({"x": {"_target_": target}}) / "config.yaml", setting="from=run", trusted=False)


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_foreign_code_is_named_and_not_run(run, changes):
    file = run(changes) / "config.yaml"
    with pytest.raises(
        ValueError, match=r"^from=run: .*config.yaml names code that is not part of diffopd:\n  \S+="
    ) as told:
        read_saved(file, setting="from=run", trusted=False)
    assert str(told.value).endswith("add trust_config=true")
    assert not Path("ran").exists()
    read_saved(file, setting="from=run", trusted=True)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("changes", [{"hydra": {"launcher": {"_target_": "evil.call"}}}, {"defaults": ["x"]}])
def test_nothing_but_settings_comes_from_a_saved_config(run, changes, trusted):
    with pytest.raises(ValueError, match=r"has the key (hydra|defaults), which no run saves"):
        read_saved(run(changes) / "config.yaml", setting="from=run", trusted=trusted)


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\x00", "x: \xff"])
def test_what_is_no_config_is_said_so(tmp_path, text):
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^from=run: .*config.yaml (cannot be read as a|is not the) config"):
        read_saved(tmp_path / "config.yaml", setting="from=run", trusted=False)


def test_train_from_a_foreign_run(run, monkeypatch, capsys):
    run({"reward": {"rewards": {"ocr": {"_target_": "evil.call"}}}})
    monkeypatch.setattr(sys, "argv", ["train", "from=run", "run_id=mine"])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert "reward.rewards.ocr._target_=evil.call" in shown
    assert "Traceback" not in shown
    assert not Path("ran").exists()
    with pytest.raises(ValueError, match="trust_config=maybe must be true or false"):
        from_arguments(["from=run", "trust_config=maybe"])
    assert "trust_config=true" not in from_arguments(["from=run", "trust_config=true"])


def test_the_config_itself_cannot_ask_for_trust(run):
    run({"trust_config": True, "reward": {"_target_": "evil.call"}})
    with pytest.raises(ValueError, match=r"reward._target_=evil.call"):
        from_arguments(["from=run"])


def test_export_builds_no_foreign_model_and_none_of_the_rest(run):
    def source(*overrides):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            return read_source(compose("export", overrides=["run=run", "to=x", *overrides]))

    folder = run({"reward": {"_target_": "evil.call"}, "model": {"_target_": "torch.hub.load"}})
    with pytest.raises(ValueError, match=r"^run=run: (?s:.*)\n  model._target_=torch.hub.load\n(?!  reward)"):
        source()
    assert source("trust_config=true").model["_target_"] == "torch.hub.load"
    own = OmegaConf.merge(
        OmegaConf.load(folder / "config.yaml"), {"model": {"_target_": "diffopd.model.SD3Model"}}
    )
    OmegaConf.save(own, folder / "config.yaml")
    assert source().run == Path("run")  # a reward of one's own is no part of an export
    assert not Path("ran").exists()


def test_replay_builds_no_foreign_run(run):
    def training(*overrides):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            cfg = compose("replay", overrides=["run=run", *overrides])
        return replay._training(cfg, Path("run"), Path("tmp"), 1)

    run({"callbacks": {"x": {"_target_": "evil.call"}}})
    with pytest.raises(ValueError, match=r"^run=run: (?s:.*)callbacks.x._target_=evil.call"):
        training()
    assert training("trust_config=true").resume == "never"
