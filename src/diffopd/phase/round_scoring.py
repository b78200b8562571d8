"""Scores of a round's samples: a prompt's samples together, as soon as they are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from diffopd.types import Prompts, Scores

ScoreAll = Callable[[Tensor, Prompts], Mapping[str, Scores]]
"""Images and their prompts to the scores of every reward by its name."""


@dataclass(frozen=True)
class Scored:
    """What a round's rewards say of its samples.

    Attributes:
        images: The samples in [0, 1], on the CPU.
        scores: Name of a reward -> its scores of them.
    """

    images: Tensor
    scores: Mapping[str, Scores]


class RoundScoring:
    """Takes a round's images in the order of its prompts and scores them; use as a context manager.

    What is scored together is the same in both manners: after each micro-batch, the prompts all of whose
    samples are there. So the background changes when a score is computed and nothing else.

    Args:
        prompts: The round's, one row per sample.
        score: Scores images.
        in_background: Score in one thread of its own, while the caller continues sampling.
        device: The caller's; a GPU is made the thread's, too.
    """

    def __init__(
        self, prompts: Prompts, score: ScoreAll, *, in_background: bool, device: torch.device
    ) -> None:
        self._prompts, self._score = prompts, score
        self._last_row = {group: row for row, group in enumerate(prompts.groups)}
        self._images: list[Tensor] = []  # given to the rewards
        self._waiting: list[Tensor] = []  # for further samples of their prompts
        self._num_images, self._num_given = 0, 0
        self._parts: list[Future[Mapping[str, Scores]]] = []
        self._pool: ThreadPoolExecutor | None = None
        if in_background:
            self._pool = ThreadPoolExecutor(
                1, thread_name_prefix="scoring", initializer=_use, initargs=(device,)
            )

    def __enter__(self) -> RoundScoring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def add(self, images: Tensor) -> None:
        """Take the images of the next rows.

        Raises:
            RewardError: If a sample cannot be scored, this one or one before.
        """
        self._waiting.append(images)
        self._num_images += len(images)
        if (end := self._complete()) > self._num_given:
            rows = range(self._num_given, end)
            self._num_given = end
            given, rest = torch.cat(self._waiting).tensor_split([len(rows)])
            self._images.append(given)
            self._waiting = [rest]
            self._parts.append(self._started(given, self._prompts.select(rows)))
        for part in self._parts:
            if part.done():
                part.result()

    def result(self) -> Scored:
        """The scores of all rows, once they are there.

        Raises:
            RewardError: If a sample cannot be scored; of several, the first.
        """
        assert self._num_given == len(self._prompts), "images of some prompts are missing"
        parts = [part.result() for part in self._parts]
        scores = {name: Scores.concat([part[name] for part in parts]) for name in parts[0]}
        return Scored(torch.cat(self._images), scores)

    def _complete(self) -> int:
        """End of the rows that share no prompt with rows that are not there yet."""
        end, reach = self._num_given, -1
        for row in range(self._num_given, self._num_images):
            reach = max(reach, self._last_row[self._prompts.groups[row]])
            if reach == row:
                end = row + 1
        return end

    def _started(self, images: Tensor, prompts: Prompts) -> Future[Mapping[str, Scores]]:
        if self._pool is not None:
            return self._pool.submit(self._score, images, prompts)
        done: Future[Mapping[str, Scores]] = Future()
        done.set_result(self._score(images, prompts))
        return done


def _use(device: torch.device) -> None:
    """Make a GPU the current one, which every thread has to do for itself."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
