"""The error of a number that is nan or infinite, and the samples that may have caused it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Suspect:
    """A sample in whose loss, gradient or reward a number was not finite.

    Attributes:
        index: Its index in the round's global batch; with the run's seed and the round it gives every draw.
        group: Number of its prompt in the global batch.
        task: Its task.
        prompt: Its prompt.
        step: The denoising step, counted from 0; None if the loss has none.
        loss: Its weighted loss as text, e.g. ``nan``; None for a reward.
    """

    index: int
    group: int
    task: str
    prompt: str
    step: int | None
    loss: str | None

    def __str__(self) -> str:
        step = "" if self.step is None else f", denoising step {self.step}"
        loss = "" if self.loss is None else f", loss {self.loss}"
        return f"sample {self.index} (task '{self.task}', prompt {self.prompt!r}{step}{loss})"


class NonFiniteError(RuntimeError):
    """A loss, gradient or reward became nan or infinite; the update it was for has not been applied.

    Attributes:
        what: ``loss``, ``gradient``, ``reward`` or ``metric``.
        update: Number of the update within its round, from 0.
        suspects: Samples of this process that may have caused it.
    """

    def __init__(self, what: str, problem: str, *, update: int = 0, suspects: Sequence[Suspect] = ()) -> None:
        super().__init__(problem)
        self.what, self.update, self.suspects = what, update, tuple(suspects)
