"""``diffopd.reward_server`` as users call it: scored from elsewhere, then told to end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd import reward_server
from diffopd.check import ConfigError, check_config
from diffopd.reward.checked import RewardError
from diffopd.reward.server.remote import RemoteReward
from diffopd.reward.server.wire import quantised
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


class Told(io.TextIOBase):
    """Standard output that another thread may wait for; a capture loses what is written while it is read."""

    def __init__(self) -> None:
        self.text, self.listening = "", threading.Event()

    def write(self, text: str) -> int:
        self.text += text
        if " a token\n" in self.text:  # from here on, a signal is heard
            self.listening.set()
        return len(text)

    def address(self) -> str:
        """Where the server listens."""
        assert self.listening.wait(120), self.text
        return self.text.split(" at ")[1].split(",")[0]


def heard(monkeypatch):
    """Standard output from now on; in a fixture, pytest would put its own back before the test begins."""
    told = Told()
    monkeypatch.setattr(sys, "stdout", told)
    return told


def meanwhile(use_it):
    """Use the server from a thread; one that fails ends the server, else the test would wait for ever."""

    def use_or_end():
        try:
            use_it()
        except BaseException:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    user = threading.Thread(target=use_or_end)
    user.start()
    return user


def config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("reward_server", overrides=[*overrides, "paths.run=."])


@pytest.mark.usefixtures("signals")
def test_it_serves_until_it_is_told_to_end(monkeypatch):
    told = heard(monkeypatch)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        local = instantiate(compose(overrides=["+reward=spectrum"]).reward)
    seen = {}

    def use_it():
        address = told.address()
        with urllib.request.urlopen(f"{address}/health", timeout=60) as response:
            seen["health"] = json.loads(response.read())["reward"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            remote = instantiate(compose(overrides=["+reward=remote", f"reward.address={address}"]).reward)
        seen["scores"] = remote(images, PROMPTS)
        os.kill(os.getpid(), signal.SIGTERM)

    user = meanwhile(use_it)
    reward_server.run(config("reward=spectrum", "port=0"))
    user.join()
    expected = local(quantised(images), PROMPTS)
    assert torch.equal(seen["scores"].value, expected.value)
    assert torch.equal(seen["scores"].parts["finest_share"], expected.parts["finest_share"])
    assert seen["health"] == "SpectrumReward"
    assert "scorer reward (SpectrumReward): " in told.text
    assert told.text.endswith(" a token\nstopped\n")


class PanicError(BaseException):
    """As a library in Rust raises it."""


class Dying:
    """Raises what ends a program; knows no pair."""

    def __call__(self, images, prompts):
        raise PanicError("poisoned")


class Hanging:
    """Never returns while a test lasts."""

    entered, leave = threading.Event(), threading.Event()

    def __call__(self, images, prompts):
        self.entered.set()
        self.leave.wait(60)
        return images.mean((1, 2, 3))


def ask(address, answers):
    remote = RemoteReward(
        address=address, token_variable="NONE", timeout=60.0, retries=0, backoff=0.0, images_per_request=8
    )
    try:
        remote(torch.rand(1, 3, 8, 8), PROMPTS.select([0]))
    except RewardError as error:
        answers.append(str(error))


@pytest.mark.usefixtures("signals")
def test_a_scorer_that_dies_ends_the_program_with_an_error(monkeypatch, capsys):
    told = heard(monkeypatch)
    monkeypatch.setattr("hydra.utils.instantiate", lambda _: Dying())
    answers = []
    user = meanwhile(lambda: ask(told.address(), answers))
    with pytest.raises(SystemExit) as end:
        reward_server.run(config("reward=spectrum", "port=0"))
    user.join()
    assert end.value.code == 1
    assert "answers 500: the scorer raised PanicError: poisoned" in answers[0]
    assert "stopped: the scorer raised PanicError: poisoned" in capsys.readouterr().err


@pytest.mark.slow  # tests/reward/test_serving.py asks the same of the server alone
@pytest.mark.usefixtures("signals")
def test_a_scorer_that_hangs_and_a_client_that_drips_do_not_outlive_sigterm(monkeypatch, capsys):
    told = heard(monkeypatch)
    scorer, answers, codes = Hanging(), [], []
    monkeypatch.setattr("hydra.utils.instantiate", lambda _: scorer)
    monkeypatch.setattr(os, "_exit", codes.append)
    dripping = socket.socket()

    def use_it():
        address = told.address()
        dripping.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        dripping.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n ")
        user = threading.Thread(target=ask, args=(address, answers))
        user.start()
        scorer.entered.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)
        user.join()

    user = meanwhile(use_it)
    reward_server.run(config("reward=spectrum", "port=0", "shutdown_timeout=0.5"))
    user.join()
    scorer.leave.set()
    dripping.close()
    assert codes == [1]
    assert "the server is shutting down" in answers[0]
    assert "stopped: the scorer has not answered within" in capsys.readouterr().err


def test_others_reach_it_only_with_a_token(monkeypatch):
    monkeypatch.delenv("DIFFOPD_REWARD_TOKEN", raising=False)
    with pytest.raises(
        ConfigError, match=r"host=0\.0\.0\.0 makes the server reachable for others, so it needs a token"
    ):
        reward_server.run(config("reward=spectrum", "host=0.0.0.0"))


def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("DIFFOPD_REWARD_TOKEN", "ge\nheim")
    with pytest.raises(ConfigError, match=r"DIFFOPD_REWARD_TOKEN must be ASCII") as refused:
        reward_server.run(config("reward=spectrum"))
    assert "heim" not in str(refused.value)


def test_neither_client_nor_server_is_imported_by_a_training():
    heavy = "{'httpx2', 'uvicorn', 'starlette'}"
    code = (
        f"import sys, diffopd.reward.server.remote, diffopd.reward_server; print({heavy} & {{*sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "set()"


def test_its_settings_are_checked():
    check_config(config("reward=spectrum"), "reward_server")
    for name in ("max_images", "max_megapixels", "max_waiting_megapixels", "max_connections"):
        with pytest.raises(ConfigError, match=rf"{name}=0 must be a whole number from 1 to"):
            check_config(config("reward=spectrum", f"{name}=0"), "reward_server")
    for name in ("timeout", "idle_timeout", "shutdown_timeout"):
        with pytest.raises(ConfigError, match=rf"{name}=0 must be a number in \(0, 86400\]"):
            check_config(config("reward=spectrum", f"{name}=0"), "reward_server")
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


def test_its_help_names_its_settings():
    settings = yaml.safe_load((CONF / "reward_server.yaml").read_text(encoding="utf-8"))
    words = set(re.findall(r"\w+", settings["hydra"]["help"]["footer"]))
    assert set(settings) - words <= {"defaults", "name", "run_id", "debug", "hydra"}
