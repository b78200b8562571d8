"""``diffopd.reward_server`` as users call it: scored from elsewhere, then told to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd import reward_server
from diffopd.check import ConfigError, check_config
from diffopd.reward.wire import quantised
from diffopd.types import Prompts

CONF = Path(__file__).parents[1] / "conf"
PROMPTS = Prompts(("x",) * 3, ("t",) * 3, ({},) * 3, (0, 1, 2), (0, 1, 2))


@pytest.fixture
def signals():
    """Handlers as they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("reward_server", overrides=[*overrides, "paths.run=."])


@pytest.mark.usefixtures("signals")
def test_it_serves_until_it_is_told_to_end(capfd):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        local = instantiate(compose(overrides=["+reward=spectrum"]).reward)
    seen = {}

    def use_it():
        try:
            for _ in range(1000):
                seen["out"] = seen.get("out", "") + capfd.readouterr().out
                if "serving" in seen["out"]:
                    break
                time.sleep(0.01)
            address = seen["out"].split(" at ")[1].split(",")[0]
            with urllib.request.urlopen(f"{address}/health", timeout=10) as response:
                seen["health"] = json.loads(response.read())["reward"]
            with initialize_config_dir(str(CONF), version_base="1.3"):
                remote = instantiate(
                    compose(overrides=["+reward=remote", f"reward.address={address}"]).reward
                )
            seen["scores"] = remote(images, PROMPTS)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    user = threading.Thread(target=use_it)
    user.start()
    reward_server.run(config("reward=spectrum", "port=0"))
    user.join()
    expected = local(quantised(images), PROMPTS)
    assert torch.equal(seen["scores"].value, expected.value)
    assert torch.equal(seen["scores"].parts["finest_share"], expected.parts["finest_share"])
    assert seen["health"] == "SpectrumReward"
    assert "scorer reward (SpectrumReward): " in seen["out"]
    assert capfd.readouterr().out == "stopped\n"


def test_others_reach_it_only_with_a_token(monkeypatch):
    monkeypatch.delenv("DIFFOPD_REWARD_TOKEN", raising=False)
    with pytest.raises(
        ConfigError, match=r"host=0\.0\.0\.0 lets others reach the server, so it needs a token"
    ):
        reward_server.run(config("reward=spectrum", "host=0.0.0.0"))


def test_its_settings_are_checked():
    check_config(config("reward=spectrum"), "reward_server")
    with pytest.raises(ConfigError, match=r"max_images=0 must be a whole number of at least 1"):
        check_config(config("reward=spectrum", "max_images=0"), "reward_server")
    node = OmegaConf.load(CONF / "reward_server.yaml")
    assert (node.host, node.token_variable) == ("127.0.0.1", "DIFFOPD_REWARD_TOKEN")


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = rf"^host=127.0.0.1 port={port} cannot be .*Address already in use"
        with pytest.raises(ConfigError, match=refused):
            reward_server.run(config("reward=spectrum", f"port={port}", "check_scorers=false"))
