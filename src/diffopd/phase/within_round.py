"""That all of a round's velocities are computed alike: those of rollouts and those that learn from them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from diffopd.model import PipelineModel

Step = TypeVar("Step", bound=Callable[..., None])


def within_round(step: Step) -> Step:
    """Run a phase's ``training_step`` in :meth:`~diffopd.model.PipelineModel.in_round`.

    Velocities may then differ by rounding from those of stock pipelines (``model.fused_blocks``). A ratio or
    difference of two of them compares like with like, as both are computed in the same way.

    Args:
        step: A method of a phase with a ``model``.

    Returns:
        The same, within a round.
    """

    @functools.wraps(step)
    def training_step(self: Any, *batch: Any, **named: Any) -> None:
        model: PipelineModel = self.model
        with model.in_round():
            step(self, *batch, **named)

    return training_step  # type: ignore[return-value]
