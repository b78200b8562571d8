"""Where a learned scorer's weights are: a folder here or on the hub, safetensors only."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from diffopd.files.names import MODEL_CONFIG
from diffopd.files.paths import resolve_path
from diffopd.weights.files import (
    TRANSFORMERS,
    check_model_config,
    check_weight_files,
    read_json,
    weight_files,
)
from diffopd.weights.hub import HUB_ERRORS
from diffopd.weights.tokenizers import check_tokenizer_files

WEIGHTS = TRANSFORMERS.single
WEIGHT_FILES = (WEIGHTS, TRANSFORMERS.index, "model-*.safetensors", MODEL_CONFIG)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def weights_folder(path: str, revision: str | None, *, reward: str | None, setting: str) -> Path:
    """The local folder of a scorer's network; a hub id is downloaded first, its safetensors only.

    Args:
        path: A folder, ``package://...``, or a hub id such as ``yuvalkirstain/PickScore_v1``.
        revision: Branch, tag or commit on the hub; None = its main branch.
        reward: Name of the reward whose released pickles ``diffopd.convert`` reads; None = there are none.
        setting: Config path of ``path``, for messages.

    Raises:
        ValueError: If there is no such folder, no safetensors file in it, or its files are not whole or not
            all that would be read.
    """
    convert = (
        f"`python -m diffopd.convert reward={reward} from=<file> to=<folder>` makes one of the released file"
        if reward
        else "give one that transformers wrote"
    )
    if Path(resolve_path(path)).is_file():
        raise ValueError(f"{setting}={path} is a file; a folder with {WEIGHTS} is needed: {convert}")
    folder = _folder(path, revision, (*WEIGHT_FILES, *TOKENIZER_FILES, *PROCESSOR_FILES), setting)
    if (folder / WEIGHTS).is_file() or (folder / TRANSFORMERS.index).is_file():
        _check_whole(folder, f"{setting}={path}")
        return folder
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{setting}={path} holds no {WEIGHTS}, but {', '.join(pickles)}; scorers read no pickles, as "
            f"those can run any code. A folder with {WEIGHTS} is needed: {convert}"
        )
    raise ValueError(f"{setting}={path} holds no {WEIGHTS} ({folder.absolute()}); give a scorer's folder")


def _check_whole(folder: Path, where: str) -> None:
    """Check, without reading weights, that the files are whole and all that the library would read.

    Raises:
        ValueError: If not.
    """
    if (file := folder / MODEL_CONFIG).is_file():  # a head by itself has none
        check_model_config(folder, read_json(file, f"{where}/{MODEL_CONFIG}"), where)
    check_weight_files(weight_files(folder, TRANSFORMERS, where), where)


def tokenizer_folder(path: str, *, kind: type[PreTrainedTokenizerBase], setting: str) -> Path:
    """The local folder of a tokenizer; from the hub, its tokenizer files only.

    Args:
        path: A folder, ``package://...`` or a hub id.
        kind: Class of the tokenizer, which says what files it needs.
        setting: Config path of ``path``, for messages.

    Raises:
        ValueError: If there is no such folder, or no whole tokenizer in it.
    """
    folder = _folder(path, None, TOKENIZER_FILES, setting)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise ValueError(
            f"{setting}={path} holds no tokenizer.json, vocab.json or vocab.txt ({folder.absolute()}); give "
            "a folder with a tokenizer's files"
        )
    check_tokenizer_files(folder, kind, f"{setting}={path}")
    return folder


def local_folder(path: str, setting: str) -> Path | None:
    """The folder, if ``path`` is one; None if it can be a hub id.

    Raises:
        ValueError: If it is neither.
    """
    place = Path(resolve_path(path))
    if place.is_dir():
        return place
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ValueError(f"{setting}={path}: there is no such folder ({place.absolute()})")
    return None


def _folder(path: str, revision: str | None, patterns: tuple[str, ...], setting: str) -> Path:
    local = local_folder(path, setting)
    if local is not None:
        return local
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(patterns)))
    except (*HUB_ERRORS, ValueError) as error:
        raise ValueError(
            f"{setting}={path} is neither a local folder nor a model on the hub: {error}"
        ) from error
