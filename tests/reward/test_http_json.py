"""The client among servers that cut, stall, drip and rave."""

import asyncio
import gzip
import json
import time

import pytest
import torch

from diffopd.command.program import why_stopped
from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.server import exchange
from diffopd.reward.server.access_token import read_token
from diffopd.reward.server.http_json import Server, ServerError
from diffopd.reward.server.remote import RemoteReward
from support.scripted_server import reply, saying, scripted
from support.served import client, images, prompts
from support.stub_server import serving

GOOD = reply("200 OK", b'{"value": [0.5], "parts": {}, "scale": "any"}')


def asking(address, **changes):
    settings = {"token": None, "timeout": 60.0, "retries": 2, "backoff": 0.0, **changes}
    return Server(address, **settings)


def stall(line):
    """Wait until the client closes."""
    while line.recv(1 << 10):
        pass


def after(said, then):
    """Say something, then go on otherwise."""

    def script(line):
        said(line)
        then(line)

    return script


def drip(line):
    """A byte every 20 ms, at most for 60 s."""
    for _ in range(3000):
        line.sendall(b"1")
        time.sleep(0.02)


CUT = {
    "busy, cut": reply("503 Busy", b'{"err', 100),
    "busy, and stalls": after(reply("503 Busy", b'{"err', 100), stall),
    "busy, and drips": after(reply("503 Busy", b'{"err', 10**6), drip),
    "fine, cut": reply("200 OK", b'{"val', 100),
    "closed at once": lambda line: None,
    "half a first line": saying("HTTP/1.1 20"),
    "no HTTP": saying("SSH-2.0-OpenSSH_9.6"),
    "a status that is none": saying("HTTP/1.1 abc OK"),
    "endless lines": lambda line: line.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10**5),
}


@pytest.mark.parametrize("first", CUT.values(), ids=CUT)
def test_an_attempt_that_is_cut_is_followed_by_another(first, monkeypatch):
    monkeypatch.setattr(exchange, "_ERROR_SECONDS", 0.2)
    with scripted(first, GOOD) as (address, seen):
        assert client(address)(images(1), prompts(1)).value.tolist() == [0.5]
    assert len(seen) == 2


@pytest.mark.parametrize(
    "slow",
    [
        stall,
        drip,
        after(saying("HTTP/1.1 200 OK", "Content-Length: 1000000"), stall),
        after(saying("HTTP/1.1 200 OK", "Content-Length: 1000000"), drip),
        after(lambda line: line.sendall(b"HTTP/1.1 200 OK\r\nX: "), drip),
    ],
)
def test_an_attempt_has_one_deadline_for_all_of_it(slow):
    with scripted(slow) as (address, seen):
        with pytest.raises(ServerError, match=r"^does not answer \(timed out after 0.2 s\)$") as failed:
            asking(address, timeout=0.2, retries=1).get("/x")
    assert failed.value.status is None
    assert len(seen) == 2


def test_the_status_counts_although_its_reason_is_cut():
    with scripted(reply("401 Unauthorized", b'{"er', 100)) as (address, seen):
        with pytest.raises(ServerError, match=r'^answers 401: {"er$') as failed:
            asking(address).get("/x")
    assert failed.value.status == 401
    assert len(seen) == 1


def test_replies_are_bounded(monkeypatch):
    monkeypatch.setattr(exchange, "MOST_BYTES", 1000)
    with scripted(after(reply("200 OK", b"1" * 1001, 10**9), stall)) as (address, seen):
        with pytest.raises(ServerError, match=r"^answers 200 with more than 1000 bytes$"):
            asking(address).get("/x")
    with scripted(reply("200 OK", b"1" * 1000)) as (address, _):
        assert asking(address).get("/x") == int("1" * 1000)
    assert len(seen) == 1


def test_reasons_of_errors_are_bounded_and_printable():
    endless = after(reply("422 No", b"no\x1b[2J " + b"x" * 10**5, 10**9), stall)
    with scripted(endless) as (address, _), pytest.raises(ServerError) as failed:
        asking(address).get("/x")
    assert str(failed.value) == "answers 422: no [2J " + "x" * 293
    with serving(lambda *_: (422, {"error": "y" * 10**4})) as address, pytest.raises(ServerError) as failed:
        asking(address).post("/x", {})
    assert str(failed.value) == "answers 422: " + "y" * 2000


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[" * 10**5, "nested deeper than 32"),
        (b"[" * 500 + b"]" * 500, "nested deeper than 32"),
        (b"1" * 5000, "Exceeds the limit"),
        (b"\xff", "codec can't decode"),
        (gzip.compress(b"{}", mtime=0), "codec can't decode"),
        (b"", "Expecting value"),
        (b"[" + b"[]," * 10**6 + b"1]", "more than 1000000 values"),
    ],
)
def test_odd_replies_are_told_not_raised(body, why):
    with scripted(reply("200 OK", body)) as (address, seen):
        with pytest.raises(RewardError, match=f"answers 200 with what is not JSON: .*{why}") as failed:
            score_checked(client(address), images(1), prompts(1), "reward")
        assert len(str(failed.value)) < 2000
        assert why_stopped(failed.value) == str(failed.value)  # no traceback
    assert len(seen) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"value": [True], "parts": {}, "scale": "x"},
        {"value": [10**400], "parts": {}, "scale": "x"},
        {"value": [0.5], "parts": {}, "scale": "x" * 10**4},
        {"value": [0.5], "parts": {str(i): [0.5] for i in range(2000)}, "scale": "x"},
        {"value": [0.5], "parts": {"x" * 10**4: [0.5]}, "scale": "x"},
        {"value": {"a": 0.5}, "parts": {}, "scale": "x"},
        [[[]]],
    ],
)
def test_odd_scores_are_an_error_never_a_number(said):
    with serving(lambda *_: (200, said)) as address:
        with pytest.raises(RewardError, match="does not speak as a reward server does: ") as failed:
            score_checked(client(address), images(1), prompts(1), "reward")
    assert why_stopped(failed.value) == str(failed.value)
    assert len(str(failed.value)) < 2000


def test_a_pair_that_is_none_is_an_error():
    with scripted(reply("200 OK", b'{"pair": {"better": 1, "worse": 2}}')) as (address, _):
        with pytest.raises(RewardError, match="does not speak as a reward server does") as failed:
            client(address).known_pair()
    assert why_stopped(failed.value) == str(failed.value)


def test_a_server_that_cuts_every_reply_ends_in_a_message():
    with scripted(CUT["busy, cut"]) as (address, seen):
        with pytest.raises(RewardError, match=r"answers 503: {\"err$") as failed:
            score_checked(client(address), images(2), prompts(2), "reward")
    assert why_stopped(failed.value) == str(failed.value)
    assert len(seen) == 3  # and not again for each sample


def test_the_last_failure_says_how_it_began():
    with scripted(reply("500 Oh", b'{"error": "the scorer raised X"}'), lambda line: None) as (address, _):
        with pytest.raises(
            ServerError, match=r"^does not answer .*; at first it answers 500: the scorer rai"
        ):
            asking(address).get("/x")


def test_the_server_may_ask_for_a_pause(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    busy = [
        saying("HTTP/1.1 503 Busy", f"Retry-After: {pause}", "Content-Length: 0")
        for pause in ("3", "0", "100000", "²", "-1", "Wed, 21 Oct 2026 07:28:00 GMT")
    ]
    with scripted(*busy, reply("200 OK", b"7")) as (address, _):
        assert asking(address, retries=6, backoff=0.5).get("/x") == 7
    assert waits == [3.0, 1.0, 60.0, 4.0, 8.0, 16.0]


def test_it_works_where_a_loop_runs_already():
    async def inside():
        return asking(address).get("/x")

    with scripted(reply("200 OK", b"7")) as (address, _):
        assert asyncio.run(inside()) == 7


def test_loopback_needs_no_proxy(monkeypatch):
    with scripted(reply("200 OK", b"7")) as (address, seen):
        monkeypatch.setenv("HTTP_PROXY", address)
        with scripted(reply("200 OK", b"8")) as (direct, _):
            assert asking(direct).get("/x") == 8
        assert asking("http://scorer.invalid").get("/x") == 7
    assert seen[0].startswith(b"GET http://scorer.invalid/x HTTP/1.1\r\n")


# Tokens and addresses.


@pytest.mark.parametrize(
    ("value", "token"), [("geheim\n", "geheim"), (" a-b_c.=\r\n", "a-b_c.="), ("", None), (" \n", None)]
)
def test_a_token_has_no_white_space_around_it(value, token, monkeypatch):
    monkeypatch.setenv("TOKEN", value)
    assert read_token("TOKEN") == token
    assert read_token("ANOTHER") is None


@pytest.mark.parametrize("value", ["ge\nheim", "ge heim", "gehéim", "ge\x7fheim", "ge\rheim", "ge\udcffheim"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(value, monkeypatch):
    monkeypatch.setenv("TOKEN", value)
    with pytest.raises(
        ValueError, match=r"variable TOKEN must be ASCII .* its value is not shown"
    ) as refused:
        client("http://127.0.0.1:1", token_variable="TOKEN")
    assert "heim" not in str(refused.value)
    assert "éim" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:80",
        "ftp://x",
        "http://",
        "http://[::1",
        "http://x:port",
        "http://x:99999",
        "file:///etc",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=r"^reward\.address=.* must be an address such as"):
        asking(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://me:geheim@127.0.0.1:80",
        "http://me:geheim@x:99999",
        "ftp://me:geheim@x",
        "me:geheim@x",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_shown(address):
    with pytest.raises(ValueError, match=r"reward\.address must not hold a name or a password") as refused:
        asking(address)
    assert "geheim" not in str(refused.value)


def test_an_address_may_have_an_at_sign_in_its_path():
    asking("http://127.0.0.1:80/@me/v1")


def test_a_token_is_not_shown_with_its_server():
    assert "geheim" not in repr(asking("http://127.0.0.1:80", token="geheim"))


def test_metadata_that_json_does_not_know_is_the_prompts_fault():
    asked = prompts(1)
    object.__setattr__(asked, "metadata", ({"weight": float("nan")},))
    with pytest.raises(RewardError, match="cannot be called, as a prompt's metadata is not JSON"):
        RemoteReward.__call__(client("http://127.0.0.1:1", retries=0), torch.rand(1, 3, 4, 4), asked)


@pytest.mark.parametrize("odd", ["\ud800", "\x1b[31m", "\x00"])
@pytest.mark.parametrize("where", ["a part", "the scale"])
def test_names_that_cannot_be_printed_are_an_error(odd, where):
    said = {"value": [0.5], "parts": {odd: [1.0]} if where == "a part" else {}, "scale": odd}
    with scripted(reply("200 OK", json.dumps({**said, "scale": odd}).encode())) as (address, _):
        with pytest.raises(RewardError, match="names of parts and the scale must be printable") as failed:
            client(address, retries=0)(torch.rand(1, 3, 4, 4), prompts(1))
    str(failed.value).encode()


def test_a_part_without_a_name_is_an_error():
    said = b'{"value": [0.5], "parts": {"": [1]}, "scale": "any"}'
    with scripted(reply("200 OK", said)) as (address, _), pytest.raises(RewardError, match="have a name"):
        client(address, retries=0)(torch.rand(1, 3, 4, 4), prompts(1))


def test_pauses_between_attempts_end_at_a_minute(monkeypatch):
    pauses = []
    monkeypatch.setattr("diffopd.reward.server.http_json.time.sleep", pauses.append)
    with scripted(reply("503 Busy", b"")) as (address, _), pytest.raises(ServerError):
        asking(address, retries=4, backoff=20.0).get("/x")
    assert pauses == [20.0, 40.0, 60.0, 60.0]
