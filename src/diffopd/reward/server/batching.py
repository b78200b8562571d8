"""Requests that arrive together, scored together by the one thread that calls the reward."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from diffopd.reward.checked import score_checked
from diffopd.reward.server.raised import told
from diffopd.reward.server.wire import in_unit_range
from diffopd.types import Prompts, Reward, Scores

log = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """Too much is waiting, or the batcher is closed."""


class ScorerDiedError(RuntimeError):
    """The reward raised what is meant to end a program, such as SystemExit; nothing is scored after that."""


class QuestionError(RuntimeError):
    """What the reward raised when it was asked for something else than scores.

    A wrapper, as StopIteration, TimeoutError and CancelledError mean something else to whoever waits for a
    future.
    """


@dataclass(eq=False)
class _Job:
    images: UInt8[Tensor, " batch 3 height width"]
    prompts: Prompts
    answer: Future[Scores] = field(default_factory=Future)

    @property
    def pixels(self) -> int:
        return len(self.images) * self.images.shape[2] * self.images.shape[3]


@dataclass(eq=False)
class _Question:
    """Something else asked of the reward, by its one thread as well."""

    ask: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """Calls a reward from one thread, as few rewards bear more, for several waiting callers at once.

    A caller's images are never split, and callers' groups stay apart, so that a reward that compares the
    samples of a prompt sees the same as it would alone. A caller that cancels its future before its images
    are taken is forgotten.

    Args:
        reward: The scorer.
        max_images: Images in one call at most, unless one caller has more.
        max_wait: Seconds to wait for further callers; 0 = take what is there.
        max_waiting: Images that may wait at most, unless one caller has more and is alone.
        max_waiting_pixels: The same of their pixels.

    Attributes:
        failure: What the reward raised when it died; None while it lives.
    """

    def __init__(
        self, reward: Reward, *, max_images: int, max_wait: float, max_waiting: int, max_waiting_pixels: int
    ) -> None:
        self.reward = reward
        self.max_images, self.max_wait = max_images, max_wait
        self.max_waiting, self.max_waiting_pixels = max_waiting, max_waiting_pixels
        self.failure: str | None = None
        self._queue: list[_Job | _Question] = []
        self._taken: list[_Job | _Question] = []
        self._since: float | None = None
        self._changed = threading.Condition()
        self._waiting, self._pixels, self._closed = 0, 0, False
        self._when_died: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name="reward", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait or are being scored."""
        return self._waiting

    @property
    def busy_for(self) -> float:
        """Seconds that the call under way has taken so far; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def when_died(self, react: Callable[[], None]) -> None:
        """Have ``react`` called, from the reward's thread, if the reward dies."""
        with self._changed:
            self._when_died = react
            died = self.failure is not None
        if died:
            react()

    def submit(self, images: UInt8[Tensor, " batch 3 height width"], prompts: Prompts) -> Future[Scores]:
        """The future of the scores of these images; it raises :class:`RewardError` if one cannot be scored.

        Raises:
            BusyError: If too much is waiting already.
            ScorerDiedError: If the reward has died.
        """
        job = _Job(images, prompts)
        with self._changed:
            self._check_open()
            more = self._waiting + len(prompts), self._pixels + job.pixels
            if self._waiting and (more[0] > self.max_waiting or more[1] > self.max_waiting_pixels):
                raise BusyError(f"{self._waiting} images are waiting; try again later")
            self._waiting, self._pixels = more
            self._queue.append(job)
            self._changed.notify_all()
        job.answer.add_done_callback(lambda _: self._done(job))
        return job.answer

    def ask(self, ask: Callable[[], Any]) -> Future[Any]:
        """The future of what ``ask`` returns, called by the reward's thread.

        Raises:
            BusyError: If the batcher is closed.
            ScorerDiedError: If the reward has died.
        """
        question = _Question(ask)
        with self._changed:
            self._check_open()
            self._queue.append(question)
            self._changed.notify_all()
        question.answer.add_done_callback(lambda _: self._done(question))
        return question.answer

    def close(self, timeout: float | None = None) -> bool:
        """Score what is waiting, then stop.

        Args:
            timeout: Seconds to wait for that; None = as long as it takes.

        Returns:
            Whether the reward's thread has ended; if not, what waited is given up.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._give_up(BusyError("the server has shut down"))
        return not self._thread.is_alive()

    def _check_open(self) -> None:
        if self.failure is not None:
            raise ScorerDiedError(self.failure)
        if self._closed:
            raise BusyError("the server is shutting down")

    def _done(self, asked: _Job | _Question) -> None:
        """Forget a question that is answered or cancelled."""
        with self._changed:
            if isinstance(asked, _Job):
                self._waiting -= len(asked.prompts)
                self._pixels -= asked.pixels
            if asked in self._queue:  # cancelled before it was taken
                self._queue.remove(asked)
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while taken := self._take():
                self._since = time.monotonic()
                if isinstance(taken[0], _Question):
                    self._answer_question(taken[0])
                else:
                    self._answer([job for job in taken if isinstance(job, _Job)])
                self._since = None
        except BaseException as error:  # SystemExit, KeyboardInterrupt, a panic in Rust: nobody else hears it
            log.error("the scorer has died", exc_info=error)
            self._since = None
            self.failure = f"the scorer raised {told(error)}"
            self._give_up(ScorerDiedError(self.failure))
            self._when_died()

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            given_up, self._queue = [*self._taken, *self._queue], []
        for asked in given_up:
            _tell(asked.answer, error=error)

    def _take(self) -> list[_Job | _Question]:
        """What the next call answers; nothing when the batcher is closed and nothing waits."""
        with self._changed:
            self._taken = []
            while not self._taken:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                until = time.monotonic() + self.max_wait
                while not self._is_full() and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                together = self._together()
                del self._queue[: len(together)]
                self._taken = [asked for asked in together if asked.answer.set_running_or_notify_cancel()]
            return list(self._taken)

    def _is_full(self) -> bool:
        """Whether nothing that may come would be answered in the same call."""
        together = self._together()
        images = sum(len(job.prompts) for job in together if isinstance(job, _Job))
        return self._closed or len(together) < len(self._queue) or images >= self.max_images

    def _together(self) -> list[_Job | _Question]:
        """The first of the queue, with those behind it that the same call can answer."""
        if not self._queue or isinstance(self._queue[0], _Question):
            return self._queue[:1]
        first, images = self._queue[0], 0
        for number, job in enumerate(self._queue):
            if isinstance(job, _Question) or job.images.shape[1:] != first.images.shape[1:]:
                return self._queue[:number]
            images += len(job.prompts)
            if number and images > self.max_images:
                return self._queue[:number]
        return list(self._queue)

    def _answer_question(self, question: _Question) -> None:
        try:
            answer = question.ask()
        except Exception as error:
            log.error("the reward could not be called", exc_info=error)
            _tell(question.answer, error=QuestionError(told(error)))
        else:
            _tell(question.answer, answer)

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            scores = self._scores(jobs)
        except Exception as error:
            if len(jobs) == 1:
                _tell(jobs[0].answer, error=error)
            else:  # one caller's sample must not fail the others
                for job in jobs:
                    self._answer([job])
            return
        start = 0
        for job in jobs:
            rows = slice(start, start + len(job.prompts))
            parts = {
                name: values[rows]
                for name, values in scores.parts.items()
                if "/" not in name or name.partition("/")[0] in job.prompts.tasks  # not of others' tasks
            }
            _tell(job.answer, Scores(scores.value[rows], parts, scores.scale))
            start = rows.stop

    @torch.no_grad()
    def _scores(self, jobs: list[_Job]) -> Scores:
        images = in_unit_range(torch.cat([job.images for job in jobs]))
        return score_checked(self.reward, images, _merged([job.prompts for job in jobs]), "reward")


def _tell(answer: Future[Any], result: Any = None, *, error: Exception | None = None) -> None:
    """Settle a future, unless it was cancelled or given up in the meantime."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)


def _merged(parts: list[Prompts]) -> Prompts:
    """All rows; groups of different parts get different numbers."""
    if len(parts) == 1:
        return parts[0]
    number: dict[tuple[int, int], int] = {}
    return Prompts.concat(
        [
            dataclasses.replace(
                prompts, groups=tuple(number.setdefault((p, group), len(number)) for group in prompts.groups)
            )
            for p, prompts in enumerate(parts)
        ]
    )
