"""Are all values of a loaded model finite?"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffopd.host.rank import is_first_process
from diffopd.weights.hashing import WORTH_A_LINE

log = logging.getLogger(__name__)


def check_finite(model: nn.Module, where: str, *, setting: str) -> None:
    """Check that no weight is nan or infinite. This reads all of them, those that are mapped from the disk.

    Args:
        model: On any device.
        where: Its folder in the user's words, for messages.
        setting: The config path of its precision.

    Raises:
        ValueError: If one is.
    """
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors_of(model))
    if size >= WORTH_A_LINE and is_first_process():
        log.info("reading the values of %s, %.1f GB", where, size / 1e9)
    for name, tensor in tensors_of(model):
        if not _all_finite(tensor):
            narrow = tensor.dtype == torch.float16
            hint = f", or the weights exceed fp16's range: set {setting}=bf16" if narrow else ""
            raise ValueError(
                f"{where}: tensor {name} has values that are nan or infinite; its file is damaged{hint}"
            )


def tensors_of(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers of a model, by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Both ends are nan if any value is; thirty times as fast as isfinite.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())
