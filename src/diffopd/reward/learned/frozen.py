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

from diffopd.types.precision import parse_dtype

log = logging.getLogger(__name__)

WORTH_A_LINE = 10**9
"""Bytes of weights from which on loading is announced."""
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
    check_finite(model, f"{setting}: {folder}")
    return model


def check_finite(network: nn.Module, where: str) -> None:
    """Check that no weight of a scorer is nan or infinite: one may spoil the scores of a few prompts alone.

    Args:
        network: As loaded.
        where: Its folder in the user's words, for messages.

    Raises:
        ValueError: If one is.
    """
    for name, tensor in network.named_parameters():
        if tensor.numel() and not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():
            hint = ", or they exceed fp16's range: set dtype=bf16" if tensor.dtype == torch.float16 else ""
            raise ValueError(
                f"{where}: tensor {name} has values that are nan or infinite; its file is damaged{hint}"
            )


def checked_batch_size(batch_size: int) -> int:
    """``batch_size`` if it can be one.

    Raises:
        ValueError: If it cannot.
    """
    if batch_size < 1:
        raise ValueError(f"reward.batch_size={batch_size} must be a whole number of at least 1")
    return batch_size


def chosen_device(name: str, setting: str) -> torch.device:
    """The device of a setting; ``auto`` is this process's GPU if there is one.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{setting}={name} is not a device: {error}") from error


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
