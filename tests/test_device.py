"""Where a model is sampled; Apple's GPU, which has no float64, is an error before anything starts."""

from __future__ import annotations

import re

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd.build.experiment import build
from diffopd.build.trained_model import load_with_adapters
from diffopd.check import ConfigError
from diffopd.config.folder import config_folder
from diffopd.evaluate import __main__ as evaluate
from diffopd.host.device import accelerator_kind, chosen_device, device_of_model


@pytest.fixture
def apple(monkeypatch):
    """A machine whose only GPU is Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("apple")
def test_the_accelerator_is_the_one_that_lightning_chooses(monkeypatch):
    kinds = {name: accelerator_kind(name) for name in ("auto", "gpu", "mps", "cuda", "cpu", "tpu")}
    expected = {"auto": "mps", "gpu": "mps", "mps": "mps", "cuda": "cuda", "cpu": "cpu", "tpu": "tpu"}
    assert kinds == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [accelerator_kind(name) for name in ("auto", "gpu")] == ["cuda", "cuda"]


@pytest.mark.usefixtures("apple")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "auto",
            "trainer.accelerator=auto means Apple's GPU (mps) here, which cannot be used: sampling steps",
        ),
        ("gpu", "trainer.accelerator=gpu means Apple's GPU (mps) here, which cannot be used"),
        ("mps", "trainer.accelerator=mps cannot be used: sampling steps are computed in float64"),
    ],
)
def test_a_training_on_apples_gpu_ends_before_it_starts(world, tmp_path, name, message):
    config = world.config("mopd_ode", tmp_path / "run", f"trainer.accelerator={name}")
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(config)


@pytest.mark.usefixtures("apple")
def test_commands_that_sample_say_so_and_choose_the_cpu_by_themselves():
    assert device_of_model("auto").type == "cpu"
    message = re.escape("device=mps:0 cannot be used: sampling steps are computed in float64, which mps does")
    with pytest.raises(ValueError, match=message):
        device_of_model("mps:0")
    with initialize_config_dir(config_folder(), version_base="1.3"):
        configs = [compose(name, overrides=["device=mps:0"]) for name in ("evaluate", "sample")]
    with pytest.raises(ValueError, match=message):
        evaluate.run(configs[0])
    with pytest.raises(ValueError, match=message):
        load_with_adapters(configs[1], {}, None)
    assert chosen_device("mps", "reward.device").type == "mps"  # a scorer samples nothing
