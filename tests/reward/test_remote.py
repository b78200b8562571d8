"""A reward through a server in this process equals the reward itself, and failures are told as such."""

import base64
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from stub_server import serving, unused_address

from diffopd.evaluation import check_scorer
from diffopd.reward.batching import Batcher, BusyError
from diffopd.reward.by_task import RewardByTask
from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.remote import RemoteReward
from diffopd.reward.serving import RewardServer
from diffopd.reward.wire import Limits, RequestError, decode_request, encode_request, quantised
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.request import GENEVAL_TAGS

CONF = Path(__file__).parents[2] / "conf/reward"
LIMITS = Limits(body=10**6, images=8, side=64)


def prompts(number, group_size=1):
    rows = tuple(range(number))
    groups = tuple(row // group_size for row in rows)
    return Prompts(tuple(f"prompt {i}" for i in rows), ("t",) * number, ({},) * number, rows, groups)


def images(number, size=(4, 6)):
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(0))


def brightness(images, prompts):
    return images.mean((1, 2, 3))


@contextlib.contextmanager
def server(reward, *, token=None, limits=LIMITS, max_images=8, max_wait=0.0, max_waiting=64):
    batcher = Batcher(reward, max_images=max_images, max_wait=max_wait, max_waiting=max_waiting)
    with RewardServer("127.0.0.1", 0, batcher=batcher, limits=limits, token=token, timeout=60.0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def client(address, **changes):
    settings = {
        "token_variable": "NO_TOKEN",
        "timeout": 60.0,
        "retries": 2,
        "backoff": 0.0,
        "images_per_request": 8,
    }
    return RemoteReward(address=address, **{**settings, **changes})


def post(address, body, headers=None):
    request = urllib.request.Request(f"{address}/score", body, headers or {}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


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
        assert lines == ["t (RemoteReward): 0.8 for a better image, 0.2 for a worse one"]
        with pytest.raises(RewardError, match="token is missing or wrong; put the server's token into"):
            client(running.address).known_pair()


def test_a_server_may_know_no_pair():
    with server(brightness) as running:
        (line,) = check_scorer(client(running.address), "t", pairs="scorer_pairs.t")
        assert client(f"{running.address}/elsewhere").known_pair() is None  # 404, as of an older server
    assert line.startswith("t (RemoteReward): not checked, as its server knows no pair of images for it")
    assert "+scorer_pairs.t=" in line
    with pytest.raises(RewardError, match=r"does not answer .*start it with python -m diffopd\.reward_s"):
        client(unused_address(), retries=0).known_pair()


# The same scores.


def test_a_served_reward_is_the_reward_itself_exactly(drawings):
    pictures, asked = drawings(GENEVAL_TAGS, 12, seed=1)
    assert torch.equal(pictures, quantised(pictures))  # drawings are of 8 bits
    local = instantiate(OmegaConf.load(CONF / "composition.yaml"))
    with server(local, limits=Limits(10**6, 8, 64)) as running:
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
    assert torch.equal(pictures, quantised(images(2)))


def test_the_samples_of_a_prompt_are_never_split():
    sizes = []

    def noted(images, prompts):
        sizes.append(prompts.groups)
        return brightness(images, prompts)

    with server(noted, limits=Limits(10**6, 100, 64)) as running:
        client(running.address, images_per_request=5)(images(12), prompts(12, group_size=3))
        client(running.address, images_per_request=2)(images(3), prompts(3, group_size=3))
    assert sizes == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (0, 0, 0)]


# Requests together.


def test_requests_that_wait_are_scored_together_and_groups_stay_apart():
    calls, first = [], threading.Event()

    def slow(images, prompts):
        calls.append(prompts.groups)
        if len(calls) == 1:
            first.wait(60)
        return brightness(images, prompts)

    batcher = Batcher(slow, max_images=4, max_wait=0.0, max_waiting=64)
    pictures, results = images(7), {}
    shares = {"one": [0], "two": [1, 2], "three": [3, 4], "large": [5], "four": [6]}

    def ask(name):
        rows = shares[name]
        shape = pictures[rows] if name != "large" else pictures[rows].repeat(1, 1, 2, 2)
        results[name] = batcher.score(shape, prompts(7).select([0] * len(rows))).value

    threads = []
    for name in shares:
        threads.append(threading.Thread(target=ask, args=(name,)))
        threads[-1].start()
        while batcher.waiting < sum(len(shares[n]) for n in list(shares)[: len(threads)]):
            time.sleep(0.001)
    first.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert calls == [(0,), (0, 0, 1, 1), (0,), (0,)]
    assert torch.equal(results["three"], brightness(pictures[[3, 4]], None))
    torch.testing.assert_close(results["large"], brightness(pictures[[5]], None))


def test_one_bad_sample_fails_its_own_request_alone():
    blocked = threading.Event()

    def picky(images, prompts):
        blocked.wait(60)
        if "bad" in prompts.texts:
            raise OSError("unreadable")
        return brightness(images, prompts)

    batcher = Batcher(picky, max_images=8, max_wait=0.3, max_waiting=64)
    bad = Prompts(("bad",), ("t",), ({},), (9,), (0,))
    outcomes = {}

    def ask(name, asked):
        try:
            outcomes[name] = batcher.score(images(1), asked).value.tolist()
        except RewardError as error:
            outcomes[name] = str(error)

    threads = [threading.Thread(target=ask, args=pair) for pair in (("good", prompts(1)), ("bad", bad))]
    for thread in threads:
        thread.start()
    blocked.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert outcomes["good"] == brightness(images(1), None).tolist()
    assert "raised OSError: unreadable, for sample 9 (task 't', prompt 'bad')" in outcomes["bad"]


def test_a_closed_or_full_batcher_says_so():
    entered, leave = threading.Event(), threading.Event()

    def slow(images, prompts):
        entered.set()
        leave.wait(60)
        return brightness(images, prompts)

    batcher = Batcher(slow, max_images=8, max_wait=0.0, max_waiting=3)
    thread = threading.Thread(target=batcher.score, args=(images(2), prompts(2)))
    thread.start()
    entered.wait(60)
    with pytest.raises(BusyError, match="2 images are waiting"):
        batcher.score(images(2), prompts(2))
    leave.set()
    thread.join()
    batcher.close()
    with pytest.raises(BusyError, match="shutting down"):
        batcher.score(images(1), prompts(1))


# Refusals.


def body(number=1, **changes):
    return json.dumps({**encode_request(images(number), prompts(number)), **changes}).encode()


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "must be a JSON object with version=1"),
        (body(version=2), 400, "version=1"),
        (body(images=["bm8="]), 400, "image 0 is not a PNG in base64"),
        (body(images=["?"]), 400, "image 0 is not a PNG in base64"),
        (body(images=[7]), 400, "image 0 is not a PNG in base64"),
        (body(images=[]), 400, "lists of one length"),
        (
            body(prompts=[{"text": "x"}]),
            400,
            "prompt 0 must be an object with text, task, metadata, index, group",
        ),
        (body(9), 413, "9 images are more than the 8"),
        (
            json.dumps(encode_request(images(1, (3, 65)), prompts(1))).encode(),
            413,
            "65 x 3 pixels; sides end at 64",
        ),
        (b" " * (10**6 + 1), 413, "the body has 1000001 bytes, 1000000 are allowed"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(sent, status, message):
    with server(brightness) as running:
        code, reply = post(running.address, sent)
        assert code == status
        assert message in reply["error"]
        assert post(running.address, body())[0] == 200  # and the next one is served


def test_a_picture_of_another_mode_is_refused():
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("L", (4, 4)).save(buffer, format="PNG")
    content = {
        **encode_request(images(1), prompts(1)),
        "images": [base64.b64encode(buffer.getvalue()).decode()],
    }
    with pytest.raises(RequestError, match="must be an RGB PNG, got mode L") as refused:
        decode_request(content, LIMITS)
    assert refused.value.status == 400


def test_a_request_without_length_is_refused():
    with (
        server(brightness) as running,
        socket.create_connection(running.server_address[:2], timeout=60) as line,
    ):
        line.sendall(b"POST /score HTTP/1.0\r\n\r\n")
        assert b" 411 " in line.recv(1000)


def test_a_token_is_needed_where_there_is_one(monkeypatch):
    monkeypatch.setenv("RIGHT", "secret")
    monkeypatch.setenv("WRONG", "secre")
    with server(brightness, token="secret") as running:
        assert client(running.address, token_variable="RIGHT")(images(1), prompts(1)).value.shape == (1,)
        for variable in ("WRONG", "UNSET"):
            with pytest.raises(
                RewardError, match=rf"answers 401: .*token is missing or wrong; put .* {variable}$"
            ):
                client(running.address, token_variable=variable)(images(1), prompts(1))


def test_others_may_reach_it_only_with_a_token():
    batcher = Batcher(brightness, max_images=8, max_wait=0.0, max_waiting=8)
    with pytest.raises(
        ValueError, match=r"host=0\.0\.0\.0 lets others reach the server, so it needs a token"
    ):
        RewardServer("0.0.0.0", 0, batcher=batcher, limits=LIMITS, token=None, timeout=1.0)
    batcher.close()


def test_a_port_that_is_taken():
    with server(brightness) as running:
        port = running.server_address[1]
        with pytest.raises(ValueError, match=f"port={port} cannot be listened at"):
            RewardServer("127.0.0.1", port, batcher=running.batcher, limits=LIMITS, token=None, timeout=1.0)


def test_health_says_what_is_served():
    with (
        server(brightness) as running,
        urllib.request.urlopen(f"{running.address}/health", timeout=60) as response,
    ):
        assert json.loads(response.read()) == {
            "status": "ok",
            "reward": "brightness",
            "waiting": 0,
            "limits": {"body": 10**6, "images": 8, "side": 64},
        }


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
        with pytest.raises(RewardError, match=r"does not answer \(timed out\)"):
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
