"""Requests scored together by one thread, and what becomes of them when the scorer or the caller goes."""

import threading

import pytest
import torch

from diffopd.reward.checked import RewardError
from diffopd.reward.server.batching import BusyError, QuestionError, ScorerDiedError
from diffopd.reward.server.wire import in_unit_range
from diffopd.types import Prompts
from support.served import WAIT, batching, brightness, pixels, prompts, until


def test_requests_that_wait_are_scored_together_and_groups_stay_apart():
    calls, first = [], threading.Event()

    def slow(images, prompts):
        calls.append(prompts.groups)
        if len(calls) == 1:
            first.wait(60)
        return brightness(images, prompts)

    batcher = batching(slow, max_images=4)
    pictures, results = pixels(7), {}
    shares = {"one": [0], "two": [1, 2], "three": [3, 4], "large": [5], "four": [6]}

    def ask(name):
        rows = shares[name]
        shape = pictures[rows] if name != "large" else pictures[rows].repeat(1, 1, 2, 2)
        results[name] = batcher.submit(shape, prompts(7).select([0] * len(rows)))

    for name in shares:
        ask(name)
        until(lambda: calls)  # the first is taken alone
    first.set()
    scores = {name: future.result(WAIT).value for name, future in results.items()}
    batcher.close()
    assert calls == [(0,), (0, 0, 1, 1), (0,), (0,)]
    assert torch.equal(scores["three"], brightness(in_unit_range(pictures[[3, 4]]), None))
    torch.testing.assert_close(scores["large"], brightness(in_unit_range(pictures[[5]]), None))


def test_one_bad_sample_fails_its_own_request_alone():
    blocked = threading.Event()

    def picky(images, prompts):
        blocked.wait(60)
        if "bad" in prompts.texts:
            raise OSError("unreadable")
        return brightness(images, prompts)

    batcher = batching(picky, max_wait=0.05)
    bad = Prompts(("bad",), ("t",), ({},), (9,), (0,))
    good, failed = batcher.submit(pixels(1), prompts(1)), batcher.submit(pixels(1), bad)
    blocked.set()
    assert good.result(WAIT).value.tolist() == brightness(in_unit_range(pixels(1)), None).tolist()
    with pytest.raises(
        RewardError, match=r"raised OSError: unreadable, for sample 9 \(task 't', prompt 'bad'\)"
    ):
        failed.result(WAIT)
    batcher.close()


def test_a_closed_or_full_batcher_says_so():
    entered, leave = threading.Event(), threading.Event()

    def slow(images, prompts):
        entered.set()
        leave.wait(60)
        return brightness(images, prompts)

    batcher = batching(slow, max_waiting=3, max_waiting_pixels=3 * 24)
    batcher.submit(pixels(2), prompts(2))
    entered.wait(WAIT)
    with pytest.raises(BusyError, match="2 images are waiting"):
        batcher.submit(pixels(2), prompts(2))
    with pytest.raises(BusyError, match="2 images are waiting"):
        batcher.submit(pixels(1, size=(5, 6)), prompts(1))  # 30 pixels, 24 are left
    batcher.submit(pixels(1), prompts(1))
    leave.set()
    batcher.close()
    with pytest.raises(BusyError, match="shutting down"):
        batcher.submit(pixels(1), prompts(1))


def test_what_is_cancelled_is_not_scored_and_takes_no_room():
    entered, leave, seen = threading.Event(), threading.Event(), []

    def slow(images, prompts):
        seen.append(len(prompts))
        entered.set()
        leave.wait(WAIT)
        return brightness(images, prompts)

    batcher = batching(slow, max_waiting=4)
    first = batcher.submit(pixels(1), prompts(1))
    entered.wait(WAIT)
    for _ in range(20):  # each takes the room that the one before has left
        assert batcher.submit(pixels(3), prompts(3)).cancel()
    assert batcher.waiting == 1
    last = batcher.submit(pixels(2), prompts(2))
    assert not first.cancel()  # it is being scored
    leave.set()
    assert last.result(WAIT).value.shape == (2,)
    assert seen == [1, 2]
    assert batcher.close()
    assert batcher.waiting == 0


class PanicError(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("kind", [PanicError, KeyboardInterrupt, GeneratorExit])
def test_a_scorer_that_dies_fails_all_requests_and_leaves_none_waiting(kind):
    entered, leave, told = threading.Event(), threading.Event(), threading.Event()

    def dying(images, prompts):
        entered.set()
        leave.wait(WAIT)
        raise kind("no more")

    batcher = batching(dying)
    batcher.when_died(told.set)
    scored = batcher.submit(pixels(1), prompts(1))
    entered.wait(WAIT)
    waiting, question = batcher.submit(pixels(1), prompts(1)), batcher.ask(lambda: 1)
    leave.set()
    for future in (scored, waiting, question):
        with pytest.raises(ScorerDiedError, match=rf"^the scorer raised {kind.__name__}: no more$"):
            future.result(WAIT)
    assert told.wait(WAIT)
    assert batcher.failure == f"the scorer raised {kind.__name__}: no more"
    with pytest.raises(ScorerDiedError):
        batcher.submit(pixels(1), prompts(1))
    assert batcher.close(WAIT)
    again = []
    batcher.when_died(lambda: again.append(1))  # it is told late as well
    assert again == [1]


def test_questions_are_answered_by_the_scorers_thread_in_their_turn():
    batcher = batching(brightness)
    assert batcher.ask(lambda: threading.current_thread().name).result(WAIT) == "reward"
    with pytest.raises(QuestionError, match="KeyError: 'lost'"):
        batcher.ask(lambda: {}["lost"]).result(WAIT)
    assert batcher.submit(pixels(1), prompts(1)).result(WAIT).value.shape == (1,)
    assert batcher.close()


def test_a_scorer_that_hangs_does_not_hold_up_the_end():
    leave, entered = threading.Event(), threading.Event()

    def hanging(images, prompts):
        entered.set()
        leave.wait(WAIT)
        return brightness(images, prompts)

    batcher = batching(hanging)
    under_way = batcher.submit(pixels(1), prompts(1))
    entered.wait(WAIT)
    waiting = batcher.submit(pixels(1), prompts(1))
    assert batcher.busy_for > 0
    assert not batcher.close(timeout=0.0)
    for future in (under_way, waiting):
        with pytest.raises(BusyError, match="has shut down"):
            future.result(WAIT)
    leave.set()  # what comes too late harms nobody
    until(lambda: batcher.close(timeout=WAIT))
    assert batcher.failure is None
    assert batcher.busy_for == 0
