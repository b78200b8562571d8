"""Whether tasks that are learned together pull in different directions: their gradients, apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffopd.strategy.divided import inner_products
from diffopd.strategy.gradients import averaged_gradients, flat_gradient


class TaskGradients:
    """The gradients of an update, of each task apart.

    Args:
        tasks: All tasks of the round, the same on all processes.
        parameters: What is trained.
    """

    def __init__(self, tasks: Sequence[str], parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._parts = any(isinstance(parameter, DTensor) for parameter in self._parameters)
        self._of = dict.fromkeys(tasks, torch.zeros_like(flat_gradient(self._parameters)))

    def backward(self, losses: Tensor, tasks: Sequence[str], backward: Callable[..., None]) -> None:
        """Add the gradient of a sum of losses to the parameters', with one backward per task.

        Args:
            losses: One per row.
            tasks: Each row's.
            backward: As :meth:`lightning.LightningModule.manual_backward`.
        """
        before = flat_gradient(self._parameters)
        names = list(dict.fromkeys(tasks))
        for task in names:
            rows = [row for row, name in enumerate(tasks) if name == task]
            backward(losses[rows].sum(), retain_graph=task != names[-1])
            after = flat_gradient(self._parameters)
            self._of[task] = self._of[task] + after - before
            before = after

    def compare(self) -> dict[str, Tensor]:
        """How the tasks' gradients since the last call compare, averaged over processes first.

        Returns:
            The cosine of every two, ``train/conflict/<a>_<b>``, and each one's share of the sum of their
            norms, ``train/gradient_share/<task>``.
        """
        names, gradients = list(self._of), torch.stack(list(self._of.values()))
        self._of = dict.fromkeys(names, torch.zeros_like(gradients[0]))
        if not self._parts:  # those in shards were averaged as they came up
            gradients = averaged_gradients(gradients)
        products = inner_products(gradients, parts=self._parts)
        tiny = torch.finfo(products.dtype).tiny
        norms = products.diag().sqrt()
        shares = norms / norms.sum().clamp_min(tiny)
        return {f"train/gradient_share/{task}": share for task, share in zip(names, shares, strict=True)} | {
            f"train/conflict/{names[a]}_{names[b]}": products[a, b] / (norms[a] * norms[b]).clamp_min(tiny)
            for a in range(len(names))
            for b in range(a + 1, len(names))
        }
