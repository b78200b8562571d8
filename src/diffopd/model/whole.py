"""Is a pipeline's folder whole? Asked before anything is hashed or loaded, without reading weights."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffopd.files.names import MODEL_CONFIG
from diffopd.weights.files import (
    DIFFUSERS,
    TRANSFORMERS,
    Layout,
    check_model_config,
    check_weight_files,
    read_json,
    weight_files,
)
from diffopd.weights.pipeline_path import INDEX
from diffopd.weights.tokenizers import check_tokenizer_files

OPTIONAL = ("text_encoder_3",)
"""Text encoders that a family works without: Stable Diffusion 3's T5."""
_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
_KINDS: Mapping[str, type] = {
    "transformer": ModelMixin,
    "vae": ModelMixin,
    "text_encoder": PreTrainedModel,
    "tokenizer": PreTrainedTokenizerBase,
    "scheduler": SchedulerMixin,
}
"""Start of a component's name -> what its class must be."""
_AGAIN = "fetch or copy the folder again"


@dataclass(frozen=True)
class Component:
    """A part of a pipeline that lies in a folder of its own.

    Attributes:
        folder: Where.
        kind: Its class.
        where: The folder in the user's words, for messages.
    """

    folder: Path
    kind: type[Any]
    where: str

    @property
    def layout(self) -> Layout | None:
        """How its weights are named; None if it has none."""
        if issubclass(self.kind, PreTrainedModel):
            return TRANSFORMERS
        return DIFFUSERS if issubclass(self.kind, ModelMixin) else None

    @property
    def weights(self) -> list[Path]:
        """The files of weights that are read.

        Raises:
            ValueError: If they are not whole.
        """
        return [] if self.layout is None else weight_files(self.folder, self.layout, self.where)

    def check(self) -> None:
        """Check that the files are there and whole; no weights are read.

        Raises:
            ValueError: If not.
        """
        if not self.folder.is_dir():
            raise ValueError(f"{self.where} is missing, which {INDEX} names; {_AGAIN}")
        if self.layout is not None:
            config = read_json(self.folder / MODEL_CONFIG, f"{self.where}/{MODEL_CONFIG}")
            check_model_config(self.folder, config, self.where)
            check_weight_files(self.weights, self.where)
        elif issubclass(self.kind, SchedulerMixin):
            read_json(self.folder / "scheduler_config.json", f"{self.where}/scheduler_config.json")
        elif issubclass(self.kind, PreTrainedTokenizerBase):
            check_tokenizer_files(self.folder, self.kind, self.where)


def components_of(
    folder: Path, kind: type[DiffusionPipeline], without: Collection[str], where: str
) -> dict[str, Component]:
    """The parts of a pipeline that are there, by their names.

    Args:
        folder: The pipeline's.
        kind: Class that the pipeline must have.
        without: Components to leave out beside those the pipeline itself was saved without.
        where: The pipeline in the user's words, for messages.

    Raises:
        ValueError: If it is of another class, or lacks a part that it cannot work without.
    """
    index = read_json(folder / INDEX, f"{where}: {INDEX}")
    if index.get("_class_name") != kind.__name__:
        raise ValueError(
            f"{where} holds a {index.get('_class_name')}; a {kind.__name__} is needed. "
            "Choose the model that fits it, model=..."
        )
    found = {
        name: _component(folder, name, entry, where)
        for name, entry in index.items()
        if isinstance(entry, list) and entry != [None, None] and name not in without
    }
    for name in _needed(kind):
        encoder = name.replace("tokenizer", "text_encoder")
        optional = encoder in OPTIONAL and (name == encoder or encoder not in found)
        if name not in found and name not in without and not optional:
            also = f" beside {encoder}, which is there" if encoder in found else ""
            raise ValueError(
                f"{where}: {INDEX} has no {name}{also}; a {kind.__name__} does not work without it. Fetch or "
                f"copy {INDEX} and the folder {name} again"
            )
    return found


def check_whole(components: Mapping[str, Component]) -> None:
    """Check that the files of all components are there and whole; no weights are read.

    Raises:
        ValueError: If not, naming the first that is not.
    """
    for component in components.values():
        component.check()


def _component(folder: Path, name: str, entry: list[Any], where: str) -> Component:
    library, architecture = entry if len(entry) == 2 else (None, None)
    kind = getattr(_LIBRARIES.get(str(library)), str(architecture), None)
    base = next((base for start, base in _KINDS.items() if name.startswith(start)), object)
    if not isinstance(kind, type) or not issubclass(kind, base) or Path(name).name != name:
        raise ValueError(
            f"{where}: {INDEX} says {name} is {entry}; it must be a class of diffusers or transformers that "
            f"is a {base.__name__}"
        )
    return Component(folder / name, kind, f"{where}: {name}")


def _needed(kind: type[DiffusionPipeline]) -> list[str]:
    """Components without a default."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
