"""What training all weights takes beside activations, counted from the config: nothing is loaded for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from diffopd.check.setting import phase_takes
from diffopd.check.source import constant
from diffopd.doctor.cost import round_kind
from diffopd.doctor.device import kind_of, num_processes
from diffopd.doctor.finding import Finding, Level
from diffopd.doctor.measure import memory_bytes
from diffopd.model import pipeline_folder
from diffopd.types.precision import parse_dtype
from diffopd.weights.files import DIFFUSERS, weight_files

GIB = 1024**3
ABOUT = "all weights"


def bytes_of_weights(
    values: int, *, base_width: int, width: int, trained: int, copies: int
) -> dict[str, int]:
    """Bytes of a transformer that is trained whole, and of what comes with it.

    Args:
        values: Parameters of the transformer.
        base_width: Bytes of one value of the base model, which stays as it is.
        width: Bytes of one value of what is trained.
        trained: Transformers that are trained: the student, and a fake score.
        copies: Others of their shape: averages, an old policy.

    Examples:
        >>> bytes_of_weights(10, base_width=2, width=4, trained=1, copies=2)
        {'base model': 20, 'trained': 40, 'averages': 80, 'gradients': 40, 'optimizer': 80}
    """
    one = values * width
    return {
        "base model": values * base_width,
        "trained": trained * one,
        "averages": copies * one,
        "gradients": trained * one,
        "optimizer": 2 * trained * one,  # AdamW's two means
    }


def all_weights_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Will the weights of a run with ``adapter=full`` fit, before a byte of them is read?

    Text encoders, autoencoder and activations come on top; where rounds are measured, they are in the peak.

    Args:
        values: The composed config as plain values, checked.
    """
    adapter = values.get("adapter")
    if not isinstance(adapter, Mapping) or not phase_takes(values, "adapter"):
        return
    if constant(adapter.get("_target_"), "all_weights") is not True:
        return
    trained, copies = _transformers(values)
    parts = bytes_of_weights(
        _num_values(values["model"]),
        base_width=parse_dtype(values["model"]["dtype"], "model.dtype").itemsize,
        width=parse_dtype(adapter["dtype"], "adapter.dtype").itemsize,
        trained=trained,
        copies=copies,
    )
    processes = num_processes(values["trainer"])
    strategy = values["trainer"].get("strategy")
    target = strategy.get("_target_") if isinstance(strategy, Mapping) else None
    share = processes if constant(target, "divides_backbone") else 1
    on_gpu = kind_of(values["trainer"]) == "cuda"
    here = 1 if on_gpu else processes // int(values["trainer"].get("num_nodes", 1))
    present = torch.cuda.mem_get_info()[1] if on_gpu else memory_bytes()
    needed = sum(parts.values()) / share
    shown = ", ".join(f"{name} {size / share / GIB:.2f}" for name, size in parts.items())
    text = (
        f"{needed / GIB:.2f} GiB per process ({shown}) before text encoders, autoencoder and activations; "
        f"{present / here / GIB:.2f} GiB there"
    )
    if needed <= present / here:
        yield Finding(Level.FINE, ABOUT, text)
        return
    more = "more processes" if share > 1 else "trainer=sharded, which divides them among processes"
    yield Finding(Level.FAILURE, ABOUT, f"{text}; choose {more}, or adapter=lora")


def _transformers(values: Mapping[str, Any]) -> tuple[int, int]:
    """How many a run trains, and how many more of the shape it keeps."""
    teacher = values.get("teacher") if phase_takes(values, "teacher") else None
    teaches_itself = isinstance(teacher, Mapping) and teacher.get("weights") == "ema"
    trained = 1 + (round_kind(values) == "distribution_matching")
    return trained, 1 + teaches_itself + ("old_policy" in values["phase"])


def _num_values(model: Mapping[str, Any]) -> int:
    """Values of a model's transformer, by the headers of its files."""
    folder = Path(pipeline_folder(model["path"], model.get("revision"))) / "transformer"
    number = 0
    for file in weight_files(folder, DIFFUSERS, f"model.path={model['path']}: transformer"):
        with safe_open(file, framework="pt") as opened:
            number += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())
    return number
