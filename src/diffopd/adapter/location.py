"""Where a saved adapter or a fine-tuned transformer lies: a file, a folder, the package or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
)

from diffopd.adapter.safe_file import PICKLES, check_safe
from diffopd.files.names import ADAPTER_CONFIG, CARD_FILE, MODEL_CONFIG
from diffopd.files.paths import resolve_path
from diffopd.weights.files import DIFFUSERS, weight_files
from diffopd.weights.hub import HUB_ERRORS
from diffopd.weights.hub_path import misplaced_revision, why_no_place

WEIGHTS = "adapter_model.safetensors"
LORA_FILE = "pytorch_lora_weights.safetensors"
TRANSFORMER = "transformer"

Kind = Literal["peft", "lora", "transformer"]
_WHOLE_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Place:
    """Saved weights that may stand for a name in a run.

    Attributes:
        kind: ``peft``, a PEFT folder; ``lora``, one file of LoRA keys; ``transformer``, a whole one.
        path: The folder of a PEFT adapter or a transformer, the file of a ``lora``.
        where: Where the config names it and as what, for messages.
    """

    kind: Kind
    path: Path
    where: str

    @property
    def weights(self) -> list[Path]:
        """The safetensors files."""
        if self.kind == "transformer":
            return weight_files(self.path, DIFFUSERS, self.where)
        return [self.path / WEIGHTS if self.kind == "peft" else self.path]


def find_place(path: str | Path, *, setting: str) -> Place:
    """What lies at ``path``.

    Args:
        path: A folder, a ``.safetensors`` file, ``package://...``, or on the hub ``owner/name``,
            ``owner/name/folder``, either with ``@revision``. What is there on disk goes first.
        setting: Where the config names it, for messages.

    Returns:
        The place; files of the hub are downloaded to its cache.

    Raises:
        ValueError: If nothing is there that can be read.
    """
    where, local = f"{setting}={path}", Path(resolve_path(path))
    if local.is_file():
        return _from_file(local, where)
    if local.is_dir():
        return _from_folder(local, where)
    if (why := why_no_place(str(path))) is not None:
        raise ValueError(f"{where}: {why}")
    return _from_hub(HubFolder.parse(str(path)), where)


def find_card(path: str | Path) -> Path | None:
    """The ``card.json`` in the folder of an adapter or a transformer, if there is one.

    A single file has none: a card beside it may be that of another file in the folder.

    Args:
        path: As in :func:`find_place`.
    """
    local = Path(resolve_path(path))
    if local.exists() or why_no_place(str(path)) is not None:
        return local / CARD_FILE if (local / CARD_FILE).is_file() else None
    hub = HubFolder.parse(str(path))
    try:
        return None if hub.file else hub.fetch(CARD_FILE)
    except (*HUB_ERRORS, ValueError):
        return None


def _from_file(file: Path, where: str) -> Place:
    check_safe(file, where)
    if file.name == WEIGHTS and (file.parent / ADAPTER_CONFIG).is_file():
        return Place("peft", file.parent, where)
    if file.name.startswith(_WHOLE_WEIGHTS):
        raise ValueError(
            f"{where} is a part of a whole model; give the folder that also holds {MODEL_CONFIG}"
        )
    return Place("lora", file, where)


def _from_folder(folder: Path, where: str) -> Place:
    if (folder / ADAPTER_CONFIG).is_file():
        if not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"{where}: there is no {WEIGHTS}{_pickled(folder)}; give a folder in PEFT's format"
            )
        return Place("peft", folder, where)
    if (folder / LORA_FILE).is_file():
        return Place("lora", folder / LORA_FILE, where)
    for inner in (folder / TRANSFORMER, folder):
        if (inner / MODEL_CONFIG).is_file():
            return Place("transformer", inner, where)
    files = sorted(folder.glob("*.safetensors"))
    if [file.name for file in files] == [WEIGHTS]:
        raise ValueError(
            f"{where}: there is no {ADAPTER_CONFIG}, which states rank and alpha; give PEFT's whole folder"
        )
    if len(files) == 1:
        return Place("lora", files[0], where)
    if files:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{where} holds {len(files)} safetensors files ({names}); give the path of one")
    raise ValueError(
        f"{where}: {folder.absolute()} holds no adapter{_pickled(folder)}; give a PEFT folder "
        f"({ADAPTER_CONFIG} and {WEIGHTS}), a .safetensors file of LoRA weights or its folder, or the folder "
        f"of a whole fine-tuned transformer ({TRANSFORMER}/{MODEL_CONFIG}, or {MODEL_CONFIG} and weights)"
    )


def _pickled(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    return f" ({', '.join(names)} is a pickle, and pickles are not read)" if names else ""


@dataclass(frozen=True)
class HubFolder:
    """A folder of a repository on the hub, or one file in it.

    Attributes:
        repository: ``owner/name``.
        folder: Folder within it with a slash at its end, or empty.
        file: A ``.safetensors`` file that is named itself, or empty.
        revision: Branch, tag or commit; None = its main branch.
    """

    repository: str
    folder: str
    file: str
    revision: str | None

    @staticmethod
    def parse(path: str) -> HubFolder:
        """Read ``owner/name[/folder][/file][@revision]``.

        Examples:
            >>> HubFolder.parse("someone/teachers/ocr/lora@v2")
            HubFolder(repository='someone/teachers', folder='ocr/lora/', file='', revision='v2')
        """
        place, _, revision = path.partition("@")
        owner, name, *parts = place.strip("/").split("/")
        file = parts.pop() if parts and parts[-1].endswith(".safetensors") else ""
        return HubFolder(f"{owner}/{name}", "".join(f"{part}/" for part in parts), file, revision or None)

    def fetch(self, name: str) -> Path | None:
        """One file of the folder, or None if the folder does not have it.

        Raises:
            OSError: If the hub cannot be asked and the file is not in its cache.
        """
        try:
            file = self.folder + name
            return Path(huggingface_hub.hf_hub_download(self.repository, file, revision=self.revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    def fetch_transformer(self, inner: str) -> Path:
        """The folder of a whole transformer: its config and all its weights."""
        root = huggingface_hub.snapshot_download(
            self.repository,
            revision=self.revision,
            allow_patterns=[f"{self.folder}{inner}{name}" for name in (MODEL_CONFIG, f"{_WHOLE_WEIGHTS}*")],
            ignore_patterns=[f"*{ending}" for ending in PICKLES],
        )
        return Path(root) / self.folder / inner


def _from_hub(hub: HubFolder, where: str) -> Place:
    try:
        place = _found_on_hub(hub, where)
    except HUB_ERRORS as error:
        meant = misplaced_revision(where.partition("=")[2])
        hint = f". The revision goes at the end: did you mean {meant}?" if meant else ""
        raise ValueError(
            f"{where} is neither a local folder or file nor an adapter on the hub: {error}{hint}"
        ) from error
    if place is None:
        raise ValueError(
            f"{where}: the hub's {hub.repository} holds none of {hub.file or ', '.join(_KNOWN_FILES)} in "
            f"{hub.folder or 'its top folder'}; name the folder or the file, as in "
            f"{hub.repository}/<folder>, or download the file and give its path"
        )
    for file in place.weights:
        check_safe(file, where)
    return place


_KNOWN_FILES = (WEIGHTS, LORA_FILE, MODEL_CONFIG)


def _found_on_hub(hub: HubFolder, where: str) -> Place | None:
    if hub.file:
        found = hub.fetch(hub.file)
        if found is None:
            return None
        if hub.file == WEIGHTS and (config := hub.fetch(ADAPTER_CONFIG)) is not None:
            return Place("peft", config.parent, where)  # rank and alpha are in the config beside the weights
        return _from_file(found, where)
    config = hub.fetch(ADAPTER_CONFIG)
    if config is not None:
        return hub.fetch(WEIGHTS) and Place("peft", config.parent, where)
    if (found := hub.fetch(LORA_FILE)) is not None:
        return Place("lora", found, where)
    for inner in (f"{TRANSFORMER}/", ""):
        if hub.fetch(inner + MODEL_CONFIG) is not None:
            return Place("transformer", hub.fetch_transformer(inner), where)
    return None
