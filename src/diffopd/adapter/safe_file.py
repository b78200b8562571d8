"""Weights from elsewhere: whole safetensors files are read, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of files that would run code of their author when loaded."""
_ZIP, _PICKLE = b"PK", b"\x80"
_HEADER_AT = 8
"""A safetensors file begins with the length of its header in 8 bytes; the header is JSON."""


def read_tensors(file: Path, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file on the CPU, and the strings of its header.

    Raises:
        ValueError: If it is a pickle, empty, cut short or no safetensors file.
    """
    check_safe(file, where)
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise _broken(file, where, error) from error


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself before its values.

    Attributes:
        shapes: Shape of each tensor.
        dtypes: Type of its numbers in the words of safetensors, such as ``F32`` or ``BF16``.
        strings: Its metadata.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    strings: Mapping[str, str]


def read_header(file: Path, where: str) -> Header:
    """The header of a safetensors file; no value is read.

    Raises:
        ValueError: As :func:`read_tensors`.
    """
    check_safe(file, where)
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}
            return Header(
                shapes={key: tuple(value.get_shape()) for key, value in slices.items()},
                dtypes={key: value.get_dtype() for key, value in slices.items()},
                strings=dict(opened.metadata() or {}),
            )
    except SafetensorError as error:
        raise _broken(file, where, error) from error


def read_shapes(file: Path, where: str) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor, from the header alone.

    Raises:
        ValueError: As :func:`read_tensors`.
    """
    return dict(read_header(file, where).shapes)


def check_safe(file: Path, where: str) -> None:
    """Refuse a file that is not safetensors, by its ending and by its first bytes, without reading the rest.

    Args:
        file: The file, which is there.
        where: Where it is named in the config and as what, for the message.

    Raises:
        ValueError: If it is a pickle, empty, or something else.
    """
    if file.suffix in PICKLES:
        raise ValueError(
            f"{where}: {file.name} is a pickle, which can run code of its author when loaded; only "
            ".safetensors files are read. Ask its author for one, or convert it in an isolated environment"
        )
    with file.open("rb") as opened:
        head = opened.read(_HEADER_AT + 1)
    if not head:
        raise ValueError(f"{where}: {file.name} is empty (0 bytes); fetch or copy it again")
    if head[_HEADER_AT:] == b"{":
        return
    if head.startswith((_ZIP, _PICKLE)):
        raise ValueError(
            f"{where}: {file.name} is a pickle under another name (written by torch.save), which can run "
            "code of its author when loaded; only true safetensors files are read"
        )
    raise ValueError(
        f"{where}: {file.name} is not a safetensors file (it begins with {head[:8]!r}); it may be a web page "
        "or a Git LFS pointer saved in its place: fetch the file itself"
    )


def _broken(file: Path, where: str, error: SafetensorError) -> ValueError:
    size = file.stat().st_size
    return ValueError(
        f"{where}: {file.name} ({size} bytes) is not a whole safetensors file: {error}; it is truncated or "
        "was damaged in transfer, fetch or copy it again"
    )
