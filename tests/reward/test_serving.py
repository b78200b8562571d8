"""A reward server among clients that drip, linger and vanish, with a scorer that hangs or dies."""

import concurrent.futures
import dataclasses
import select
import threading

import pytest

from diffopd.reward.checked import RewardError
from diffopd.reward.server import endpoints
from support.served import (
    LIMITS,
    PATIENCE,
    WAIT,
    ask,
    body,
    brightness,
    client,
    connect,
    head,
    health,
    images,
    post,
    prompts,
    server,
    told,
    until,
)

LONG = dataclasses.replace(PATIENCE, request=600.0, idle=600.0)
"""So patient that nothing in a test is over by that."""


def patience(**changes):
    return dataclasses.replace(LONG, **changes)


class Held:
    """Brightness, once a test lets it go."""

    def __init__(self):
        self.entered, self.leave, self.seen = threading.Event(), threading.Event(), []

    def __call__(self, images, prompts):
        self.seen.append(len(prompts))
        self.entered.set()
        self.leave.wait(WAIT)
        return brightness(images, prompts)


@pytest.fixture
def held():
    scorer = Held()
    yield scorer
    scorer.leave.set()


def send_whole(running, number=1):
    line = connect(running)
    line.sendall(head(len(body(number))) + body(number))
    return line


# Shutting down.


def test_a_client_that_drips_does_not_hold_up_the_end():
    with server(brightness, patience=patience(shutdown=0.5)) as running:
        with connect(running) as dripping, connect(running) as silent:
            dripping.sendall(head(1000) + b" ")
            silent.sendall(b"POST /sc")
            assert health(running.address).status_code == 200  # both have arrived
            running.stop()
            running.thread.join(WAIT)
            assert not running.thread.is_alive()
            said = told(dripping)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"the server is shutting down" in said
            assert told(silent) == b""


def test_a_scorer_that_hangs_does_not_hold_up_the_end(held):
    with server(held, patience=patience(shutdown=0.5)) as running, send_whole(running) as line:
        held.entered.wait(WAIT)
        running.stop()
        running.thread.join(WAIT)
        assert not running.thread.is_alive()
        assert b"the server is shutting down" in told(line)
        running.batcher.close(timeout=0.0)
        running.close()
        assert running.scorer_hangs


def test_what_is_under_way_is_answered_before_the_end(held):
    with server(held, patience=LONG) as running, send_whole(running) as line:
        held.entered.wait(WAIT)
        running.stop()
        until(lambda: refused(running))
        held.leave.set()
        assert told(line).startswith(b"HTTP/1.1 200 ")
        running.thread.join(WAIT)
    assert not running.scorer_hangs


def refused(running):
    try:
        connect(running).close()
    except OSError:
        return True
    return False


def test_told_to_stop_twice_it_ends_at_once(held):
    with server(held, patience=LONG) as running, send_whole(running):
        held.entered.wait(WAIT)
        running.stop()
        running.stop()
        running.thread.join(WAIT)
        assert not running.thread.is_alive()
        held.leave.set()


# Deadlines.


def test_a_connection_without_a_request_is_closed():
    with server(brightness, patience=patience(idle=0.2)) as running:
        with connect(running) as silent, connect(running) as dripping:
            dripping.sendall(b"POST /score HT")
            assert told(silent) == b""
            assert told(dripping) == b""


def test_a_request_that_does_not_arrive_in_time_is_answered_408(monkeypatch):
    monkeypatch.setattr(endpoints, "LINGER", 0.1)
    with server(brightness, patience=patience(request=0.2)) as running, connect(running) as line:
        line.sendall(head(1000) + b" ")
        said = told(line)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"has not arrived within 0.2 s" in said


def test_a_scorer_that_hangs_is_told_of_and_the_server_says_it_fails(held):
    with server(held, patience=patience(request=0.2)) as running:
        for _ in range(2):  # under way, and waiting
            code, reply = post(running.address, body())
            assert (code, reply["error"]) == (503, "the images were not scored within 0.2 s")
        sick = health(running.address)
        assert sick.status_code == 503
        assert sick.json()["status"] == "failing"
        assert sick.json()["error"].startswith("the scorer has not answered for ")
        held.leave.set()
        until(lambda: health(running.address).status_code == 200)
        assert post(running.address, body())[0] == 200
    assert held.seen == [1, 1]  # the one that waited was given up


def test_what_a_rejected_client_still_sends_is_read_for_a_while_only(monkeypatch):
    monkeypatch.setattr(endpoints, "LINGER", 0.1)
    with server(brightness, token="secret", patience=LONG) as running, connect(running) as line:
        line.sendall(head(10**6) + b" ")
        assert told(line).startswith(b"HTTP/1.1 401 ")  # and the end of the connection


def test_what_a_rejected_client_still_sends_is_read_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(endpoints, "LINGER", 600.0)
    with server(brightness, token="secret", patience=LONG) as running, connect(running) as line:
        line.sendall(head(10**9))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            line.sendall(b" " * 200 * LIMITS.body)


# Numbers.


def test_connections_are_bounded():
    with server(brightness, patience=patience(connections=2)) as running:
        with connect(running) as one, connect(running) as two:
            for line in (one, two):
                line.sendall(b"POST")  # neither ends its first line
            with connect(running) as three:
                said = told(three)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in said
            assert b"2 connections are open already" in said
        remote = client(running.address, retries=50)  # until the server has seen that they are gone
        assert remote(images(1), prompts(1)).value.shape == (1,)


def test_images_that_wait_are_bounded(held):
    with server(held, max_waiting=2, patience=LONG) as running, send_whole(running) as first:
        held.entered.wait(WAIT)
        with send_whole(running) as second:
            until(lambda: running.batcher.waiting == 2)
            with send_whole(running) as third:
                said = told(third)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in said.lower()
            assert b"2 images are waiting" in said
            held.leave.set()
            assert told(second).startswith(b"HTTP/1.1 200 ")
        assert told(first).startswith(b"HTTP/1.1 200 ")


def test_bodies_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(endpoints, "LINGER", 0.1)
    with server(brightness, patience=LONG) as running:
        lines = [connect(running) for _ in range(5)]
        for line in lines:
            line.sendall(head(LIMITS.body) + b" " * (LIMITS.body - 1))
        answered, _, _ = select.select(lines, [], [], WAIT)
        assert b"the memory for request bodies is full" in told(answered[0])
        for line in lines:
            line.close()
        until(lambda: post(running.address, body())[0] == 200)  # what was held is free again


# Clients that are gone.


def test_requests_of_clients_that_are_gone_are_not_scored(held):
    with server(held, patience=LONG) as running, send_whole(running) as first:
        held.entered.wait(WAIT)
        with send_whole(running, 3), send_whole(running, 2):
            until(lambda: running.batcher.waiting == 6)
        until(lambda: running.batcher.waiting == 1)
        held.leave.set()
        assert told(first).startswith(b"HTTP/1.1 200 ")
        assert post(running.address, body(4))[0] == 200
    assert held.seen == [1, 4]


def test_a_client_that_goes_while_it_sends_harms_nobody(caplog):
    with server(brightness, patience=LONG) as running:
        for part in (b"PO", head(1000), head(1000) + b"[", head(len(body())) + body()[:-1]):
            with connect(running) as line:
                line.sendall(part)
        assert post(running.address, body())[0] == 200
        until(lambda: running.batcher.waiting == 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# A scorer that dies.


class PanicError(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("kind", [PanicError, KeyboardInterrupt])
def test_a_scorer_that_dies_fails_its_request_and_ends_the_server(kind):
    def dying(images, prompts):
        raise kind("poisoned")

    with server(dying, patience=LONG) as running:
        code, reply = post(running.address, body())
        assert (code, reply) == (500, {"error": f"the scorer raised {kind.__name__}: poisoned"})
        running.thread.join(WAIT)
        assert not running.thread.is_alive()
        assert running.batcher.failure == f"the scorer raised {kind.__name__}: poisoned"


def test_the_client_of_a_scorer_that_died_is_told_why():
    def dying(images, prompts):
        raise PanicError("poisoned")

    with server(dying, patience=LONG) as running, pytest.raises(RewardError) as failed:
        client(running.address, retries=3, backoff=0.2)(images(1), prompts(1))
    assert "the scorer raised PanicError: poisoned" in str(failed.value)


class SilentError(BaseException):
    """What cannot even be printed, as its message needs what is broken."""

    def __str__(self):
        raise OSError("gone")


def test_a_scorer_that_dies_of_what_cannot_be_printed_is_told_of_all_the_same():
    def dying(images, prompts):
        raise SilentError

    with server(dying, patience=LONG) as running:
        failure = "the scorer raised SilentError (which cannot be printed)"
        assert post(running.address, body()) == (500, {"error": failure})
        running.thread.join(WAIT)
        assert running.batcher.failure == failure


@pytest.mark.parametrize("kind", [StopIteration, TimeoutError, concurrent.futures.CancelledError])
def test_a_pair_may_fail_with_what_means_something_to_those_who_wait(kind):
    class Lost:
        def __call__(self, images, prompts):
            return brightness(images, prompts)

        def known_pair(self):
            raise kind("lost")

    with server(Lost(), patience=LONG) as running:
        reply = ask("GET", f"{running.address}/known_pair")
        assert (reply.status_code, reply.json()) == (500, {"error": f"{kind.__name__}: lost"})


def test_a_pair_that_cannot_be_made_is_an_error():
    class Lost:
        def __call__(self, images, prompts):
            return brightness(images, prompts)

        def known_pair(self):
            raise OSError("no such picture")

    with server(Lost()) as running:
        with pytest.raises(RewardError, match="answers 500: OSError: no such picture"):
            client(running.address, retries=0).known_pair()
        assert post(running.address, body())[0] == 200
