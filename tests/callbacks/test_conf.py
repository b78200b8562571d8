"""Every choice of the groups around training composes and builds."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from diffopd.callbacks import RoundCheckpoint
from diffopd.config.aliases import choices


@pytest.fixture
def composed(conf_dir, tmp_path):
    def compose_with(*overrides: str):
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            paths = ["+paths=default", f"paths.run={tmp_path}"]
            return compose(overrides=[*(f"+{choice}" for choice in overrides), *paths])

    return compose_with


@pytest.mark.parametrize("choice", choices("callbacks"))
def test_callbacks(composed, choice, tmp_path):
    built = instantiate(composed(f"callbacks={choice}").callbacks)
    assert built
    assert all(isinstance(callback, Callback) for callback in built.values())
    if "round_checkpoint" in built:
        assert isinstance(built["round_checkpoint"], RoundCheckpoint)
        assert built["round_checkpoint"].folder == tmp_path / "checkpoints"


@pytest.mark.parametrize("choice", ["csv", "tensorboard", "default"])
def test_loggers(composed, choice):
    built = instantiate(composed(f"logger={choice}").logger)
    assert built
    assert all(isinstance(logger, Logger) for logger in built.values())


@pytest.mark.parametrize(("choice", "package"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_optional_loggers(composed, choice, package):
    pytest.importorskip(package)
    overrides = ["logger.wandb.offline=true"] if choice == "wandb" else []
    built = instantiate(composed(f"logger={choice}", *overrides).logger)
    assert isinstance(built[choice], Logger)


def test_all_that_mlflow_writes_lies_beside_the_runs(composed):
    """Its own default is a folder of wherever the command was started."""
    cfg = composed("logger=mlflow")
    assert cfg.logger.mlflow.tracking_uri == f"sqlite:///{cfg.paths.root}/mlflow.db"
    assert cfg.logger.mlflow.artifact_location == f"{cfg.paths.root}/mlruns"


def test_many_loggers_compose(composed):
    assert set(composed("logger=many").logger) == {"csv", "tensorboard", "wandb", "mlflow"}


@pytest.mark.parametrize("choice", choices("trainer"))
def test_trainers(composed, choice):
    config = OmegaConf.to_container(composed(f"trainer={choice}").trainer, resolve=True)
    assert config.pop("num_threads") == "auto"
    # On the CPU: the strategy for two processes starts them only when fitting.
    trainer = instantiate(config | {"accelerator": "cpu", "max_epochs": 3, "logger": False})
    assert isinstance(trainer, Trainer)
    assert trainer.max_epochs == 3
    assert trainer.world_size == (1 if choice == "default" else 2)


def test_optimizer_has_the_released_settings(composed):
    optimizer = instantiate(composed("optimizer=adamw").optimizer)([torch.zeros(1, requires_grad=True)])
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"], group["eps"]) == (
        3e-4,
        (0.9, 0.999),
        1e-4,
        1e-8,
    )
