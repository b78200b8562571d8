"""A scorer's network: loaded when first asked, frozen, on its own device, in its own precision."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from diffopd.host.device import chosen_device
from diffopd.types.precision import parse_dtype
from diffopd.weights.finite import check_finite
from diffopd.weights.hashing import WORTH_A_LINE

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]

Network = TypeVar("Network", bound=nn.Module)
Pretrained = TypeVar("Pretrained", bound=PreTrainedModel)


class Frozen(Generic[Network]):
    """A network that waits on disk until the first image comes.

    So a config is checked, and a benchmark built, without the weights; and with several processes each one
    loads to the GPU it has been given by then.

    Args:
        load: Called once, with the precision.
        dtype: Precision of the network: fp32, bf16 or fp16.
        device: ``"auto"`` = a GPU if there is one; or cpu, cuda, cuda:1, mps.
        setting: Config path of the scorer, for messages.
    """

    def __init__(
        self, load: Callable[[torch.dtype], Network], *, dtype: str, device: str, setting: str
    ) -> None:
        self.dtype = parse_dtype(dtype, f"{setting}.dtype")
        self.device = chosen_device(device, f"{setting}.device")
        self._load = load
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """In evaluation mode; no gradient reaches its weights."""
        if self._network is None:
            self._network = self._load(self.dtype).requires_grad_(False).eval().to(self.device)
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        """Leave the weights behind: a copy loads them again on demand."""
        return {**self.__dict__, "_network": None}


def load_pretrained(kind: type[Pretrained], folder: Path, dtype: torch.dtype, *, setting: str) -> Pretrained:
    """Load a transformers model from safetensors; one that would be partly random or nan is an error.

    Which files these are is checked before, where the folder is found
    (:mod:`diffopd.reward.learned.weights`).

    Args:
        kind: The model's class.
        folder: Holds ``config.json`` and the weights.
        dtype: Precision.
        setting: Config path of the folder, for messages.

    Raises:
        ValueError: If the folder is not of this architecture, or a weight is not finite.
    """
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size >= WORTH_A_LINE:
        log.info("loading %s (%s), %.1f GB", setting, folder, size / 1e9)
    try:
        with _quiet():
            loaded: Any = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{setting}: {folder} cannot be loaded as a {kind.__name__}: {error}") from error
    model, info = loaded
    if absent := sorted(info["missing_keys"]):
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise ValueError(
            f"{setting}: {folder} lacks {len(absent)} of the weights of a {kind.__name__} ({shown}); is it "
            "another scorer's folder?"
        )
    check_finite(model, f"{setting}: {folder}", setting=f"{setting.rpartition('.')[0]}.dtype")
    return model


def checked_batch_size(batch_size: int) -> int:
    """``batch_size`` if it can be one.

    Raises:
        ValueError: If it cannot.
    """
    if batch_size < 1:
        raise ValueError(f"reward.batch_size={batch_size} must be a whole number of at least 1")
    return batch_size


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and without lists of buffers that old files hold and newer classes do not want."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
