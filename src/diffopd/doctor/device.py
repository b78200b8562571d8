"""The device of a run, as far as this machine shows before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from diffopd.doctor.finding import Finding, Level
from diffopd.host.device import accelerator_kind, why_no_accelerator

HALF = ("bf16", "fp16")


def kind_of(trainer: Mapping[str, Any]) -> str:
    """``cuda``, ``cpu`` or another accelerator's name, as Lightning would choose."""
    return accelerator_kind(str(trainer["accelerator"]))


def num_processes(trainer: Mapping[str, Any]) -> int:
    """Processes that train together: devices of a node times nodes."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        number = len(devices)
    elif devices in ("auto", -1, "-1"):
        number = max(1, torch.cuda.device_count()) if kind_of(trainer) == "cuda" else 1
    else:
        number = int(devices)
    return number * int(trainer.get("num_nodes", 1))


def device_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Are there as many devices as are asked for?"""
    trainer, present = values["trainer"], torch.cuda.device_count()
    kind = kind_of(trainer)
    if (why := why_no_accelerator(str(trainer["accelerator"]))) is not None:
        yield Finding(Level.FAILURE, "device", why)
        return
    if kind != "cuda":
        yield Finding(Level.FINE, "device", kind)
        return
    wanted = num_processes(trainer) // int(trainer.get("num_nodes", 1))
    if present >= wanted:
        yield Finding(Level.FINE, "device", f"{wanted} x {torch.cuda.get_device_name(0)}")
    else:
        yield Finding(
            Level.FAILURE,
            "device",
            f"trainer.accelerator={trainer['accelerator']} with trainer.devices={trainer['devices']} needs "
            f"{wanted} GPUs here, torch sees {present}; set trainer.accelerator=cpu, fewer trainer.devices, "
            "or install a torch with CUDA",
        )


def precision_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Does the device compute in the precisions that the model is asked to have?"""
    model, kind = values.get("model") or {}, kind_of(values["trainer"])
    wanted = {name: model.get(name) for name in ("dtype", "text_dtype", "vae_dtype")}
    half = {name: value for name, value in wanted.items() if value in HALF}
    shown = ", ".join(f"model.{name}={value}" for name, value in half.items())
    if not half:
        yield Finding(Level.FINE, "precision", "fp32")
    elif kind == "cpu":
        yield Finding(
            Level.WARNING,
            "precision",
            f"{shown} on a CPU is emulated in places and often slower than fp32; "
            "set model.dtype=fp32 model.text_dtype=fp32 model.vae_dtype=fp32",
        )
    elif kind == "cuda" and "bf16" in half.values() and not has_bf16():
        yield Finding(
            Level.WARNING,
            "precision",
            f"{shown}, but {_gpu()} has no bf16 arithmetic, so it is emulated and slow; use fp16",
        )
    else:
        yield Finding(Level.FINE, "precision", f"{shown}; adapters, losses and sampling steps in fp32")


def _gpu() -> str:
    """The GPU's name; the config may ask for one that is not here, which is a finding of its own."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "this machine"


def has_bf16() -> bool:
    """Whether the current GPU computes in bf16 itself."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
