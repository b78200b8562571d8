"""The losses of a round as they come, so that a gradient that is not finite can be traced to its samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from diffopd.non_finite.error import NonFiniteError, Suspect
from diffopd.strategy.divided import whole_value
from diffopd.types import Prompts


@dataclass(frozen=True)
class Entry:
    """Losses whose gradient was added at once.

    Attributes:
        prompts: Their rows.
        steps: Denoising step of each row; None if the loss has none.
        losses: One per row, on the training device.
        norm: Norm of all gradients added so far, on the training device.
    """

    prompts: Prompts
    steps: Sequence[int] | None
    losses: Tensor
    norm: Tensor


class RoundRecord:
    """Losses since the last update, kept on the training device, and the number of updates in this round.

    Nothing is read from the device until an update is due, and then one number.

    Attributes:
        update: Updates that were checked in this round.
        entries: Since the last of them.
    """

    def __init__(self) -> None:
        self.update = 0
        self.entries: list[Entry] = []

    def add(
        self,
        losses: Tensor,
        prompts: Prompts,
        steps: int | Sequence[int] | None,
        parameters: Iterable[torch.nn.Parameter],
    ) -> None:
        """Note losses whose gradient has just been added to that of ``parameters``.

        Args:
            losses: One per row.
            prompts: The rows.
            steps: Their denoising steps, or the one of all; None if the loss has none.
            parameters: What is trained.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = whole_value(get_total_norm(gradients)) if gradients else losses.new_zeros(())
        per_row = [steps] * len(prompts) if isinstance(steps, int) else steps
        self.entries.append(Entry(prompts, per_row, losses.detach(), norm))

    def check(self, norm: Tensor) -> None:
        """End an update's share of the record.

        Args:
            norm: Norm of the update's gradient over all processes, which therefore agree on it.

        Raises:
            NonFiniteError: If it is not finite.
        """
        if not bool(torch.isfinite(norm)):
            suspects = self.suspects()
            lossy = any(not _is_finite(suspect.loss) for suspect in suspects)
            raise NonFiniteError(
                "loss" if lossy else "gradient",
                f"the gradient's norm is {norm.item():g}",
                update=self.update,
                suspects=suspects,
            )
        self.update += 1
        self.entries = []

    def suspects(self) -> list[Suspect]:
        """Rows whose loss is not finite; without any, those whose gradient made the sum infinite or nan."""
        broken = [
            suspect
            for entry in self.entries
            if not bool(torch.isfinite(entry.losses).all())
            for suspect in _suspects(entry)
            if not _is_finite(suspect.loss)
        ]
        if broken:
            return broken
        first = next((entry for entry in self.entries if not bool(torch.isfinite(entry.norm))), None)
        return [] if first is None else list(_suspects(first))


def check_gradient(optimizer: torch.optim.Optimizer) -> None:
    """Look at the gradient of all that an optimizer is about to step.

    Raises:
        NonFiniteError: If its norm is not finite.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not bool(torch.isfinite(norm)):
        raise NonFiniteError("gradient", f"the gradient's norm is {norm.item():g}")


def _suspects(entry: Entry) -> Iterable[Suspect]:
    for row, loss in enumerate(entry.losses.tolist()):
        yield Suspect(
            index=entry.prompts.indices[row],
            group=entry.prompts.groups[row],
            task=entry.prompts.tasks[row],
            prompt=entry.prompts.texts[row],
            step=None if entry.steps is None else int(entry.steps[row]),
            loss=f"{loss:g}",
        )


def _is_finite(loss: str | None) -> bool:
    return loss is None or loss not in ("nan", "inf", "-inf")
