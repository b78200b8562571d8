"""Load one model of a pipeline, and check what its library leaves unsaid: all tensors, finite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, SD3Transformer2DModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from diffopd.weights.finite import tensors_of

_FROM_FILE = (SD3Transformer2DModel,)
"""Models all of whose buffers are in their files. They are set up without values: computing the position
table of Stable Diffusion 3.5 in float64, only to overwrite it, takes seconds and 3.5 GB."""
_WRAPPERS = ("model", "text_model", "language_model", "transformer")
"""Names that files put before a text encoder's own, and transformers takes away."""
_SHOWN = 300
"""Characters of another library's message that are repeated."""


def load_component(kind: type[Any], folder: Path, *, dtype: torch.dtype, where: str) -> Any:
    """Load a model of diffusers or transformers from its folder.

    Values are checked by :func:`~diffopd.weights.finite.check_finite`, which is left to the caller as it
    reads them all.

    Args:
        kind: Its class.
        folder: Where its config and weights are.
        dtype: Its precision.
        where: The folder in the user's words, for messages.

    Raises:
        ValueError: If config and weights do not belong together, or weights are no floating-point numbers.
    """
    without_values = torch.device("meta") if kind in _FROM_FILE else contextlib.nullcontext()
    library: Any = kind
    with reading(where), without_values:
        model, info = library.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    _check_complete(model, info, where)
    return model


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Within this block another library reads the user's files, so that what it raises is about these.

    Args:
        where: Their folder in the user's words, for messages.

    Raises:
        ValueError: In place of whatever it raises but for want of memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each library has its own, many without a common base
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{where} cannot be loaded ({text[:_SHOWN]}); use config and files of one model, or fetch the "
            "folder again"
        ) from error


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Within this block no bars are drawn: loading takes a moment, and they would hide what matters."""
    shown = [m for m in (diffusers_logging, transformers_logging) if m.is_progress_bar_enabled()]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


def _check_complete(model: nn.Module, info: dict[str, Any], where: str) -> None:
    """Compare what was read with what the config asks for."""
    empty = {name for name, tensor in tensors_of(model) if tensor.is_meta}
    if missing := sorted({*info["missing_keys"], *empty}):
        raise ValueError(
            f"{where}: {len(missing)} tensors that its config.json needs are missing (first: {missing[0]}); "
            "use weights and config of one model, or fetch the folder again"
        )
    strangers = sorted(name for name in info["unexpected_keys"] if _belongs(name, model))
    if strangers:
        raise ValueError(
            f"{where}: {len(strangers)} tensors have no place in the model of its config.json (first: "
            f"{strangers[0]}); use weights and config of one model"
        )
    odd = [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]
    if odd:
        raise ValueError(
            f"{where}: tensor {odd[0]} is not floating-point (a quantized model cannot be used, "
            "fetch the original one)"
        )


def _belongs(name: str, model: nn.Module) -> bool:
    """Whether a tensor without a place should have one.

    Text encoders are often saved with a head that is not used, such as a language model's.
    """
    if isinstance(model, ModelMixin):
        return True
    first, *others = name.split(".")
    if first in _WRAPPERS and not hasattr(model, first) and others:
        first = others[0]
    return hasattr(model, first)
