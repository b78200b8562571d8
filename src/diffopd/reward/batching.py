"""Requests that arrive together, scored together by the one thread that calls the reward."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.checked import score_checked
from diffopd.types import Prompts, Reward, Scores


class BusyError(RuntimeError):
    """Too much is waiting, or the batcher is closed."""


@dataclass(frozen=True)
class _Job:
    images: Float[Tensor, " batch 3 height width"]
    prompts: Prompts
    answer: Future[Scores] = field(default_factory=Future)


class Batcher:
    """Calls a reward from one thread, as few rewards bear more, for several waiting callers at once.

    A caller's images are never split, and callers' groups stay apart, so that a reward that compares the
    samples of a prompt sees the same as it would alone.

    Args:
        reward: The scorer.
        max_images: Images in one call at most, unless one caller has more.
        max_wait: Seconds to wait for further callers; 0 = take what is there.
        max_waiting: Images that may wait at most.
    """

    def __init__(self, reward: Reward, *, max_images: int, max_wait: float, max_waiting: int) -> None:
        self.reward = reward
        self.max_images, self.max_wait, self.max_waiting = max_images, max_wait, max_waiting
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._waiting, self._closed = 0, False
        self._thread = threading.Thread(target=self._work, name="reward", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait or are being scored."""
        return self._waiting

    def score(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """The reward's scores of these images, once they are there.

        Raises:
            BusyError: If too much is waiting already.
            RewardError: If a sample cannot be scored.
        """
        job = _Job(images, prompts)
        with self._lock:
            if self._closed:
                raise BusyError("the server is shutting down")
            if self._waiting and self._waiting + len(prompts) > self.max_waiting:
                raise BusyError(f"{self._waiting} images are waiting; try again later")
            self._waiting += len(prompts)
            self._jobs.put(job)
        try:
            return job.answer.result()
        finally:
            with self._lock:
                self._waiting -= len(prompts)

    def close(self) -> None:
        """Score what is waiting, then stop."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        held: _Job | None = None
        while (first := held or self._jobs.get()) is not None:
            jobs, held, ended = self._gather(first)
            self._answer(jobs)
            if ended:
                break

    def _gather(self, first: _Job) -> tuple[list[_Job], _Job | None, bool]:
        """Jobs for one call, one that has to wait for the next, and whether none will follow."""
        jobs, until = [first], time.monotonic() + self.max_wait
        while True:
            try:
                left = until - time.monotonic()
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                return jobs, None, False
            if job is None:
                return jobs, None, True
            together = sum(len(j.prompts) for j in jobs) + len(job.prompts)
            if together > self.max_images or job.images.shape[1:] != first.images.shape[1:]:
                return jobs, job, False
            jobs.append(job)

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            scores = self._scores(jobs)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
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
            job.answer.set_result(Scores(scores.value[rows], parts, scores.scale))
            start = rows.stop

    @torch.no_grad()
    def _scores(self, jobs: list[_Job]) -> Scores:
        images = torch.cat([job.images for job in jobs])
        return score_checked(self.reward, images, _merged([job.prompts for job in jobs]), "reward")


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
