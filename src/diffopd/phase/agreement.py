"""A reward that is not finite in one process is news to all of them, which otherwise would wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from diffopd.non_finite import NonFiniteError
from diffopd.phase.processes import averaged, num_processes
from diffopd.reward.checked import RewardError


@contextlib.contextmanager
def finite_rewards_everywhere(device: torch.device) -> Iterator[None]:
    """Leave the block by an error in every process if in one of them a score or pixel is not finite.

    All processes have to come here equally often. Any other error leaves its process at once.

    Args:
        device: Of the process.

    Raises:
        RewardError: Where the sample is.
        NonFiniteError: Elsewhere; its samples are those of other processes.
    """
    found: RewardError | None = None
    try:
        yield
    except RewardError as error:
        if not error.non_finite or num_processes() == 1:
            raise
        found = error
    if num_processes() == 1:
        return
    failed = averaged(torch.tensor(float(found is not None), device=device))
    if found is not None:
        raise found
    if bool(failed > 0):
        raise NonFiniteError("reward", "a reward is not finite in another process")
