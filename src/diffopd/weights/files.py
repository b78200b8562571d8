"""The safetensors files that make up a model's weights, as the library that loads them chooses them.

A library reads what an index names, whatever else lies beside it. What is checked and hashed must be the same
files, so everything that reads a folder of weights asks here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diffopd.files.names import ADAPTER_CONFIG

ENDING = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = ("F64", "F32", "F16", "BF16")
_READS_OTHERS = ("transformers_weights", "quantization_config")
"""Settings of a ``config.json`` by which a library reads other files of weights, or reads them otherwise."""
_KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
"""Settings of a ``config.json`` that may name a repository on the hub, whose code then is the attention."""
_AGAIN = "fetch or copy the folder again"


@dataclass(frozen=True)
class Layout:
    """How a library names the files of a model.

    Attributes:
        stem: Name of the weights without ending; an index adds ``.safetensors.index.json`` to it.
        index_first: Whether an index goes before a single file beside it.
    """

    stem: str
    index_first: bool

    @property
    def single(self) -> str:
        """Name of weights in one file."""
        return self.stem + ENDING

    @property
    def index(self) -> str:
        """Name of the file that lists shards."""
        return f"{self.stem}{ENDING}.index.json"


DIFFUSERS = Layout("diffusion_pytorch_model", index_first=True)
TRANSFORMERS = Layout("model", index_first=False)


def read_json(file: Path, where: str) -> dict[str, Any]:
    """A file of settings.

    Raises:
        ValueError: If it is missing or no mapping in JSON.
    """
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{where} is missing; {_AGAIN}") from error
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} cannot be read as JSON ({error}); {_AGAIN}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{where} must hold settings by name; {_AGAIN}")
    return read


def weight_files(folder: Path, layout: Layout, where: str) -> list[Path]:
    """The files that the library reads, sorted by name; no weights are read.

    Args:
        folder: Holds the weights of one model.
        layout: How the library that loads them names them.
        where: The folder in the user's words, for messages.

    Raises:
        ValueError: If files are missing, are no safetensors files, or differ from what an index says.
    """
    single, index = folder / layout.single, folder / layout.index
    if index.is_file() and (layout.index_first or not single.is_file()):
        return _shards(index, where)
    if single.is_file():
        return [single]
    names = sorted(file.name for file in folder.glob("*")) if folder.is_dir() else []
    raise ValueError(f"{where}/{layout.single} is missing{_instead(names, layout)}")


def check_model_config(folder: Path, config: Mapping[str, Any], where: str) -> None:
    """Check that a model is its weight files and its class, and nothing that its folder asks for besides.

    Args:
        folder: Holds the weights of one model.
        config: Its ``config.json``.
        where: The folder in the user's words, for messages.

    Raises:
        ValueError: If a setting makes the library read something else, or an adapter lies beside the weights.
    """
    for setting in _READS_OTHERS:
        if config.get(setting) is not None:
            raise ValueError(
                f"{where}/config.json has the setting {setting}, so that other weights than these "
                "would be read, or in another way; use an original, full-precision model without it"
            )
    for setting, value in _settings(config):
        if setting.rpartition(".")[2] in _KERNELS and "/" in str(value):
            raise ValueError(
                f"{where}/config.json has {setting}={value}, code on the hub that would be fetched and run; "
                "remove the setting"
            )
    if (folder / ADAPTER_CONFIG).exists():  # transformers would add it in silence
        raise ValueError(
            f"{where} holds {ADAPTER_CONFIG}, so an adapter would change the model; merge it "
            "into the weights, or move it to a folder of its own"
        )


def check_weight_files(files: Sequence[Path], where: str) -> None:
    """Check by headers and sizes that weights are whole and floating-point; no weights are read.

    Args:
        files: Of :func:`weight_files`.
        where: Their folder in the user's words, for messages.

    Raises:
        ValueError: If a file is cut short or damaged, holds quantized weights, or two hold the same tensor.
    """
    holder: dict[str, str] = {}
    for file in files:
        for name, dtype in _header(file, where).items():
            if name in holder:
                raise ValueError(
                    f"{where}: tensor {name} is both in {holder[name]} and in {file.name}; {_AGAIN}"
                )
            holder[name] = file.name
            counts = not dtype.startswith("F8") and not name.endswith((".weight", ".bias"))
            if dtype not in _FLOATS and not (counts and dtype[0] in "IUB"):  # integers, also booleans
                raise ValueError(
                    f"{where}/{file.name}: tensor {name} has the type {dtype}; weights must be "
                    f"{', '.join(_FLOATS)} (a quantized model cannot be used, fetch the original one)"
                )


def tensor_names(file: Path, where: str) -> set[str]:
    """Names of the tensors in a safetensors file.

    Raises:
        ValueError: If it is cut short or damaged.
    """
    return set(_header(file, where))


def _settings(config: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every setting, also of the models within a model."""
    for name, value in config.items():
        yield f"{inside}{name}", value
        if isinstance(value, Mapping):
            yield from _settings(value, f"{inside}{name}.")


def _shards(index: Path, where: str) -> list[Path]:
    """The files that an index names, all of them there and with the tensors that it says."""
    folder, weight_map = index.parent, _weight_map(index, where)
    for name in sorted(set(weight_map.values())):
        if not name.endswith(ENDING):
            raise ValueError(
                f"{where}/{index.name} names {name}, which is no {ENDING} file; other formats can run code "
                "of their author when loaded and are not read. Fetch the safetensors files"
            )
        if Path(name).name != name:
            raise ValueError(
                f"{where}/{index.name} names {name}, which is in another folder; shards must lie beside it"
            )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{where}/{missing[0]} is missing: {index.name} names {len(names)} files, "
            f"{len(names) - len(missing)} are there. The download was probably interrupted; {_AGAIN}"
        )
    held = {name: tensor_names(folder / name, where) for name in names}
    lacking = [tensor for tensor, name in sorted(weight_map.items()) if tensor not in held[name]]
    if lacking:
        raise ValueError(
            f"{where}/{weight_map[lacking[0]]} lacks tensor {lacking[0]}, which {index.name} says is in it; "
            f"{_AGAIN}"
        )
    return [folder / name for name in names]


def _weight_map(index: Path, where: str) -> dict[str, str]:
    found = read_json(index, f"{where}/{index.name}").get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(
            f"{where}/{index.name} must have a weight_map that gives a file to each tensor; {_AGAIN}"
        )
    return found


def _header(file: Path, where: str) -> dict[str, str]:
    """Name of each tensor -> its type."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{where}/{file.name} ({file.stat().st_size} bytes) is not a whole safetensors file: {error}; "
            "it is truncated or damaged, fetch or copy it again"
        ) from error


def _instead(names: Sequence[str], layout: Layout) -> str:
    """What lies there instead of the weights, and what to do."""
    variants = [
        name for name in names if name.startswith(f"{layout.stem}.") and name.endswith((ENDING, ".json"))
    ]
    pickles = [name for name in names if name.endswith(PICKLES)]
    others = [name for name in names if name.endswith(ENDING)]
    if variants:
        return (
            f"; there is only the variant {variants[0]}, and variants are not read: fetch {layout.single}, "
            "or save the pipeline without a variant"
        )
    if pickles:
        return (
            f"; {pickles[0]} is a pickle, which can run code of its author when loaded, and only "
            f"{ENDING} files are read"
        )
    if others:
        return f"; {others[0]} is there, but no {layout.index} that names it. {_AGAIN.capitalize()}"
    return f"; {_AGAIN}"
