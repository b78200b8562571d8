"""Which device a setting names."""

from __future__ import annotations

import torch

MPS = "mps"
"""Apple's GPU, as torch calls it."""

_KINDS = ("cpu", "cuda", MPS)


def accelerator_kind(name: str) -> str:
    """``cuda``, ``cpu``, ``mps`` or another accelerator's name, as Lightning would choose.

    Args:
        name: Of ``trainer.accelerator``.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "cuda" or (name == "gpu" and (has_cuda or not has_mps)):
        return "cuda"
    if name == "gpu":
        return MPS
    if name != "auto":
        return name
    return "cuda" if has_cuda else MPS if has_mps else "cpu"


def why_no_accelerator(name: str) -> str | None:
    """Why nothing can be trained on what ``trainer.accelerator`` means; None if it can."""
    return _why_no_mps(name, "trainer.accelerator") if accelerator_kind(name) == MPS else None


def check_accelerator(name: str) -> None:
    """Refuse an accelerator on which no sampler works.

    Raises:
        ValueError: If it is Apple's GPU, by itself or as what ``auto`` or ``gpu`` means on this machine.
    """
    if (why := why_no_accelerator(name)) is not None:
        raise ValueError(why)


def _why_no_mps(name: str, setting: str) -> str:
    means = "" if name.partition(":")[0] == MPS else " means Apple's GPU (mps) here, which"
    return (
        f"{setting}={name}{means} cannot be used: sampling steps are computed in float64, which mps does not "
        f"have; set {setting}=cpu"
    )


def device_of_model(name: str, setting: str = "device") -> torch.device:
    """The same as :func:`chosen_device` for a device on which a model is sampled.

    Raises:
        ValueError: If there is no such device, or it is Apple's GPU, on which no sampler works.
    """
    device = chosen_device(name, setting)
    if device.type == MPS:
        raise ValueError(_why_no_mps(name, setting))
    return device


def chosen_device(name: str, setting: str = "device") -> torch.device:
    """The device of a setting; ``auto`` is this process's GPU if there is one.

    Args:
        name: ``auto``, cpu, cuda, cuda:1, mps.
        setting: Its config path, for messages.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in _KINDS or (index and not index.isdecimal()):
        raise ValueError(f"{setting}={name} is not a device; it is auto, cpu, cuda, cuda:<number> or mps")
    if kind == MPS and not torch.backends.mps.is_available():
        raise ValueError(f"{setting}={name}: there is no Apple GPU that torch can use; take auto or cpu")
    num_gpus = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= num_gpus:
        there = f"has {num_gpus}, cuda:0 first" if num_gpus else "has no GPU that this torch can use"
        raise ValueError(f"{setting}={name}: this machine {there}; take auto or cpu, or a GPU that is there")
    return torch.device(name)
