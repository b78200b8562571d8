"""Each process hears of another's end, and of none that took its leave."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffopd.strategy.lifeline import Lifeline


@pytest.fixture
def tied():
    """Three lifelines as of three processes, and what each has heard."""
    found: queue.Queue = queue.Queue()
    heard: list[queue.Queue[str]] = [queue.Queue() for _ in range(3)]
    told = threading.Event()

    def share(given):
        if given is not None:
            found.put(given)
            told.set()
        assert told.wait(60)
        return found.queue[0]

    with ThreadPoolExecutor(3) as pool:
        lines = list(
            pool.map(lambda rank: Lifeline.tie(rank, 3, "127.0.0.1", share, heard[rank].put), range(3))
        )
    yield lines, heard
    for line in lines:
        line.close()
    for line in lines:
        line._thread.join(timeout=60)
        assert not line._thread.is_alive()


def cut(line: Lifeline) -> None:
    """What the kernel does when a process ends; its own thread says nothing any more."""
    line._closed.set()
    for connection in line._connections.values():
        with contextlib.suppress(OSError):  # the other end has gone first
            connection.shutdown(socket.SHUT_RDWR)


def test_a_death_is_heard_by_all(tied):
    lines, heard = tied
    cut(lines[1])
    assert heard[0].get(timeout=60) == "process 1 of this run has died, see above; this process also exits"
    assert "another process of this run has failed" in heard[2].get(timeout=60)


def test_the_death_of_the_first_is_heard_by_all(tied):
    lines, heard = tied
    cut(lines[0])
    for rank in (1, 2):
        assert "process 0 of this run has died" in heard[rank].get(timeout=60)


def test_a_failure_is_told_before_the_end(tied):
    lines, heard = tied
    lines[2].fail()
    assert "process 2 of this run has failed" in heard[0].get(timeout=60)
    assert "has failed" in heard[1].get(timeout=60)


def test_leave_is_no_news(tied):
    lines, heard = tied
    for line in lines:
        line.close()
    for line in lines:
        cut(line)
        line._thread.join(timeout=60)
        assert not line._thread.is_alive()
    assert all(said.empty() for said in heard)
