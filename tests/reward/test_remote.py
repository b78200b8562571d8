"""A reward through a server in this process equals the reward itself, and failures are told as such."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.evaluation import check_scorer
from diffopd.reward.by_task import RewardByTask
from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.server.wire import Limits, decode_request, encode_request, in_unit_range, quantised
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.request import GENEVAL_TAGS
from support.served import LIMITS, brightness, client, images, prompts, server
from support.stub_server import serving, unused_address

CONF = Path(__file__).parents[2] / "conf/reward"


class Telling:
    """Brightness that knows a pair."""

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))

    def known_pair(self):
        better, worse = torch.full((3, 4, 6), 0.8), torch.full((3, 2, 2), 0.2)
        return KnownPair.of(better, worse, "a lamp", "light", {"tag": "x"})


# The pair of the served reward.


def test_the_served_reward_is_checked_by_its_own_pair():
    with server(Telling(), token="secret") as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", "secret")
        remote = client(running.address, token_variable="SECRET")
        pair = remote.known_pair()
        assert pair.prompt == Telling().known_pair().prompt
        torch.testing.assert_close(pair.better, torch.full((3, 4, 6), 0.8))  # 204 / 255
        assert pair.worse.shape == (3, 2, 2)
        lines = list(check_scorer(remote, "t"))
        assert lines == ["t (RemoteReward): check passed, 0.8 for a good image, 0.2 for a bad one"]
        with pytest.raises(RewardError, match="token is missing or wrong; put the server's token into"):
            client(running.address).known_pair()


def test_a_server_may_know_no_pair():
    with server(brightness) as running:
        (line,) = check_scorer(client(running.address), "t", pairs="scorer_pairs.t")
        assert client(f"{running.address}/elsewhere").known_pair() is None  # 404, as of an older server
    assert line.startswith("t (RemoteReward): not checked, as its server has no pair of images for it")
    assert "+scorer_pairs.t=" in line
    with pytest.raises(RewardError, match=r"does not answer .*start it with python -m diffopd\.reward_s"):
        client(unused_address(), retries=0).known_pair()


# The same scores.


def test_a_served_reward_is_the_reward_itself_exactly(drawings):
    pictures, asked = drawings(GENEVAL_TAGS, 12, seed=1)
    assert torch.equal(pictures, quantised(pictures))  # drawings are of 8 bits
    local = instantiate(OmegaConf.load(CONF / "composition.yaml"))
    with server(local) as running:
        remote = client(running.address, images_per_request=5)
        scores = score_checked(remote, pictures, asked, "reward")
    expected = local(pictures, asked)
    assert torch.equal(scores.value, expected.value)
    assert {name: values.tolist() for name, values in scores.parts.items()} == {
        name: values.tolist() for name, values in expected.parts.items()
    }
    assert scores.scale == expected.scale
    assert expected.value.unique().numel() > 0


def test_other_images_are_scored_in_8_bits():
    pictures = images(6, size=(32, 32))
    contrast = instantiate(OmegaConf.load(CONF / "picture_quality.yaml"))
    with server(contrast) as running:
        scores = client(running.address)(pictures, prompts(6))
    assert torch.equal(scores.value, contrast(quantised(pictures), prompts(6)).value)
    assert not torch.equal(scores.value, contrast(pictures, prompts(6)).value)


def test_parts_of_other_tasks_stay_nan():
    def with_part(images, prompts):
        return Scores(brightness(images, prompts), {"half": brightness(images, prompts) / 2}, "[0, 1]")

    local = RewardByTask(rewards={"a": with_part, "b": brightness})
    mixed = Prompts(("x",) * 4, ("a", "b", "b", "a"), ({},) * 4, (0, 1, 2, 3), (0, 1, 2, 3))
    pictures = quantised(images(4))
    with server(local) as running:
        scores = score_checked(client(running.address, images_per_request=1), pictures, mixed, "reward")
    expected = local(pictures, mixed)
    assert torch.equal(scores.value, expected.value)
    assert torch.equal(scores.parts["a/half"].isnan(), torch.tensor([False, True, True, False]))
    assert torch.equal(scores.parts["a/half"][[0, 3]], expected.parts["a/half"][[0, 3]])


def test_prompts_arrive_as_they_are():
    line = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "zwei Kätzchen"}
    sent = Prompts(('a "sign"', "zwei Kätzchen"), ("a", "b"), ({}, line), (7, 3), (4, 4))
    pictures, arrived = decode_request(json.loads(json.dumps(encode_request(images(2), sent))), LIMITS)
    assert arrived == sent
    assert torch.equal(in_unit_range(pictures), quantised(images(2)))


def test_the_samples_of_a_prompt_are_never_split():
    sizes = []

    def noted(images, prompts):
        sizes.append(prompts.groups)
        return brightness(images, prompts)

    with server(noted, limits=Limits(10**6, 100, 64, 10**6)) as running:
        client(running.address, images_per_request=5)(images(12), prompts(12, group_size=3))
        client(running.address, images_per_request=2)(images(3), prompts(3, group_size=3))
    assert sizes == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (0, 0, 0)]


# Failures at the client's side.


def test_a_sample_the_scorer_fails_at_is_named():
    def fragile(images, prompts):
        if "prompt 2" in prompts.texts:
            raise OSError("unreadable")
        return brightness(images, prompts)

    with server(fragile) as running, pytest.raises(RewardError) as refused:
        score_checked(client(running.address), images(4), prompts(4), "reward")
    assert str(refused.value) == (
        f"reward.address={running.address} (RemoteReward) answers 422: reward (fragile) raised OSError: "
        "unreadable, for sample 2 (task 't', prompt 'prompt 2')"
    )
    assert torch.equal(refused.value.sample.image, images(4)[2])


def test_retry_then_success():
    tries = []

    def answer(path, headers, content):
        tries.append(path)
        if len(tries) < 3:
            return 503, {"error": "busy"}
        return 200, {"value": [0.5], "parts": {}, "scale": "any"}

    with serving(answer) as address:
        assert client(address)(images(1), prompts(1)).value.tolist() == [0.5]
    assert tries == ["/score"] * 3


def test_retries_wait_longer_each_time(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with (
        serving(lambda *_: (503, {"error": "busy"})) as address,
        pytest.raises(RewardError, match="answers 503: busy"),
    ):
        client(address, retries=3, backoff=0.25)(images(1), prompts(1))
    assert [wait for wait in waits if wait in (0.25, 0.5, 1.0)] == [0.25, 0.5, 1.0]


def test_a_dead_server_is_named_with_its_setting():
    address = unused_address()
    with pytest.raises(
        RewardError, match=rf"^reward\.address={address} .* does not answer .*refused.*3 attempts"
    ):
        score_checked(client(address), images(2), prompts(2), "reward")


def test_a_server_that_says_nothing_times_out():
    given_up = threading.Event()
    with serving(lambda *_: (given_up.wait(60), (200, {}))[1]) as address:
        with pytest.raises(RewardError, match=r"does not answer \(timed out after 0.1 s\)"):
            client(address, timeout=0.1, retries=0)(images(1), prompts(1))
        given_up.set()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"value": [0.5], "parts": {}, "scale": "x"}, r"'value' must be 2 numbers, got \[0.5\]"),
        ({"value": [0.5, "1"], "parts": {}, "scale": "x"}, "'value' must be 2 numbers"),
        ({"value": [0.5, 1], "parts": {"a": [1]}, "scale": "x"}, "'a' must be 2 numbers"),
        ({"value": [0.5, 1]}, "must be an object with value, parts and scale"),
        (b"<html>", "answers 200 with what is not JSON: '<html>'"),
        ({"value": [0.5, None], "parts": {}, "scale": "x"}, "returned 'value' = nan for sample 1"),
        (b'{"value": [0.5, Infinity], "parts": {}, "scale": "x"}', "returned 'value' = inf for sample 1"),
    ],
)
def test_replies_that_cannot_be_scores(reply, message):
    with serving(lambda *_: (200, reply)) as address, pytest.raises(RewardError, match=message):
        score_checked(client(address), images(2), prompts(2), "reward")


def test_redirects_are_not_followed():
    with serving(lambda *_: (302, {})) as address, pytest.raises(RewardError, match="answers 302"):
        client(address)(images(1), prompts(1))
