"""What is written for each tool, and how that tool's own library, or its rule, reads it back."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast, final

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from diffopd.adapter import adapter_parameters, adapter_strength, export_lora, save_adapter
from diffopd.export.verify import States, release, velocities
from diffopd.files.atomic import atomic_save_safetensors
from diffopd.files.names import INDEX
from diffopd.model import PipelineModel
from diffopd.model.saving import forget_origin, save_transformer
from diffopd.weights.files import read_json

COMFYUI_FILE = "lora_comfyui.safetensors"
COMFYUI_PREFIX = "transformer."
TRANSFORMER = "transformer"
_A, _B, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


class Format(ABC):
    """One way to hand an adapter on.

    Attributes:
        title: What it is, in a few words.
        library: Value of ``library_name`` in the model card.
        usage: Lines of Python, or of text, that say how to use it.
        whole_model: Whether it is a model of its own rather than an addition to the base.
        keeps_card: Whether this package reads it with the ``card.json`` of a teacher.
        if_rounded: What else to do where half precision rounds most of the adapter away.
        if_different: What to do where it reads back as something else.
    """

    title: ClassVar[str]
    library: ClassVar[str]
    usage: ClassVar[str]
    whole_model: ClassVar[bool] = False
    keeps_card: ClassVar[bool] = False
    if_rounded: ClassVar[str] = ""
    if_different: ClassVar[str] = (
        "This is a fault of diffopd or of the library that read it; please report it"
    )

    def __init__(self, *, dtype: torch.dtype, compared_in: torch.dtype, device: torch.device) -> None:
        """Say how the base is stored and where the comparison runs.

        Args:
            dtype: Precision that the base has in use, and merged weights are written in.
            compared_in: Precision of the transformers that are compared.
            device: Where they are.
        """
        self.dtype, self.compared_in, self.device = dtype, compared_in, device

    @abstractmethod
    def write(self, model: PipelineModel, name: str, base: Path, folder: Path) -> list[Path]:
        """Write the adapter; what needs a transformer of its own gives the model's back first.

        Args:
            model: Holds it.
            name: Which one.
            base: Folder of the base model's pipeline.
            folder: Where to.

        Returns:
            The files of weights.
        """

    @abstractmethod
    def read(self, model: PipelineModel, base: Path, folder: Path) -> nn.Module:
        """A transformer of the base model with what ``folder`` holds, not by this package's own reader."""

    @abstractmethod
    def rounded(self, model: PipelineModel, name: str, at: States) -> Tensor:
        """Velocities of an adapter in the base's half precision, rounded as this format's reader rounds.

        Called before :meth:`write`; may round the base's weights, which no format writes.
        """

    def fresh_transformer(self, model: PipelineModel, folder: Path) -> nn.Module:
        """The transformer in a pipeline's folder: in the base's precision, then in that of the comparison."""
        own: Any = model.transformer
        transformer = type(own).from_pretrained(
            folder / TRANSFORMER, local_files_only=True, use_safetensors=True, dtype=self.dtype
        )
        # Not diffusers' own ``to``, which tells of modules to keep in fp32 where there are none.
        return nn.Module.to(transformer, self.device, self.compared_in)


@final
class Peft(Format):
    """A PEFT folder: also what ``adapter=``, ``teacher=`` and ``adapter.start=`` take here."""

    title = "PEFT folder"
    library = "peft"
    usage = 'pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, "<this folder>")'
    keeps_card = True

    def write(self, model: PipelineModel, name: str, base: Path, folder: Path) -> list[Path]:
        """``adapter_model.safetensors`` and ``adapter_config.json``."""
        return sorted(save_adapter(model.transformer, name, folder).glob("*.safetensors"))

    def read(self, model: PipelineModel, base: Path, folder: Path) -> nn.Module:
        """By PEFT's own class."""
        return PeftModel.from_pretrained(cast(Any, self.fresh_transformer(model, base)), str(folder))

    def rounded(self, model: PipelineModel, name: str, at: States) -> Tensor:
        """As in training: PEFT keeps the factors in fp32."""
        return velocities(model, at, name)


@final
class Diffusers(Format):
    """The file that ``load_lora_weights`` loads, with alpha in its header."""

    title = "diffusers LoRA file"
    library = "diffusers"
    usage = 'pipeline.load_lora_weights("<this folder>")'

    def write(self, model: PipelineModel, name: str, base: Path, folder: Path) -> list[Path]:
        """``pytorch_lora_weights.safetensors``."""
        return [export_lora(model.transformer, name, folder)]

    def read(self, model: PipelineModel, base: Path, folder: Path) -> nn.Module:
        """By the pipeline's own ``load_lora_weights``."""
        stock: Any = model.pipeline
        transformer = self.fresh_transformer(model, base)
        pipeline = type(stock)(**{**stock.components, TRANSFORMER: transformer})
        pipeline.load_lora_weights(str(folder))
        return transformer

    def rounded(self, model: PipelineModel, name: str, at: States) -> Tensor:
        """With the factors in the base's precision."""
        factors = adapter_parameters(model.transformer, name)
        exact = {key: value.data for key, value in factors.items()}
        try:
            for value in factors.values():
                value.data = value.data.to(self.compared_in)
            return velocities(model, at, name)
        finally:
            for key, value in factors.items():
                value.data = exact[key]


@final
class ComfyUI(Format):
    """One file with the keys and the alphas that ComfyUI's LoRA loader takes; read back by its rule."""

    title = "LoRA file in ComfyUI's layout"
    library = "diffusion-single-file"  # diffusers refuses its alphas but for FLUX.1
    usage = f"put {COMFYUI_FILE} into ComfyUI's models/loras and choose it in a LoraLoader node"

    def write(self, model: PipelineModel, name: str, base: Path, folder: Path) -> list[Path]:
        """``transformer.<layer>.lora_A.weight``, ``.lora_B.weight`` and ``.alpha`` of each layer."""
        path = folder / COMFYUI_FILE
        atomic_save_safetensors(path, comfyui_tensors(model.transformer, name))
        return [path]

    def read(self, model: PipelineModel, base: Path, folder: Path) -> nn.Module:
        """By ComfyUI's rule, written out: ``weight + alpha / rank * B A``."""
        transformer, tensors = self.fresh_transformer(model, base), load_file(folder / COMFYUI_FILE)
        for key in tensors:
            if key.endswith(_ALPHA):
                stem = key.removesuffix(_ALPHA)
                down, up = tensors[stem + _A], tensors[stem + _B]
                strength = float(tensors[key]) / down.shape[0]
                add_product(transformer, stem.removeprefix(COMFYUI_PREFIX), down, up, strength)
        return transformer

    def rounded(self, model: PipelineModel, name: str, at: States) -> Tensor:
        """With each sum of weight and product in the base's precision."""
        add_adapter_product(model.transformer, Factors.of(model, name))
        return velocities(model, at)


@final
class Merged(Format):
    """The base model with the adapter added to its weights: a whole pipeline, or its transformer alone."""

    title = "model with the adapter folded in"
    library = "diffusers"
    usage = 'pipeline = DiffusionPipeline.from_pretrained("<this folder>")'
    whole_model = True
    if_rounded = if_different = (
        "Weights in half precision cannot hold small changes: set model.dtype=fp32 (of a run: "
        "model_dtype=fp32), which makes files of twice the size, or export the adapter by itself"
    )

    def __init__(
        self, *, dtype: torch.dtype, compared_in: torch.dtype, device: torch.device, whole_pipeline: bool
    ) -> None:
        """Choose how much is written.

        Args:
            dtype: Precision of the weights.
            compared_in: Precision of the transformers that are compared.
            device: Where they are.
            whole_pipeline: All components of the base pipeline; otherwise ``transformer/`` alone.
        """
        super().__init__(dtype=dtype, compared_in=compared_in, device=device)
        self.whole_pipeline = whole_pipeline

    def write(self, model: PipelineModel, name: str, base: Path, folder: Path) -> list[Path]:
        """``transformer/``, and copies of the base's other components."""
        transformer: Any
        if name in model.backbones.names:  # all weights were trained, and nothing is added to the base's
            transformer = model.backbones.named(name)
            model.backbones.remove(name)
            release(model)
        else:
            factors = Factors.of(model, name)
            release(model)
            transformer = self.fresh_transformer(model, base)
            add_adapter_product(transformer, factors)
        nn.Module.to(transformer, self.dtype)
        save_transformer(transformer, folder / TRANSFORMER)
        del transformer
        if self.whole_pipeline:
            index = read_json(base / INDEX, f"model.path={base}: {INDEX}")
            shutil.copyfile(base / INDEX, folder / INDEX)
            for component in index:
                if component != TRANSFORMER and (base / component).is_dir():
                    shutil.copytree(base / component, folder / component)
            forget_origin(folder)
        return sorted((folder / TRANSFORMER).glob("*.safetensors"))

    def read(self, model: PipelineModel, base: Path, folder: Path) -> nn.Module:
        """By diffusers' ``from_pretrained``."""
        return self.fresh_transformer(model, folder)

    def rounded(self, model: PipelineModel, name: str, at: States) -> Tensor:
        """With each sum of weight and product in the base's precision."""
        if name in model.backbones.names:
            return velocities(model, at, name)
        add_adapter_product(model.transformer, Factors.of(model, name))
        return velocities(model, at)


FORMATS = ("peft", "diffusers", "comfyui", "merged")


def format_of(
    name: str, *, dtype: torch.dtype, compared_in: torch.dtype, device: torch.device, whole_pipeline: bool
) -> Format:
    """The format called ``name``.

    Raises:
        ValueError: If there is none.
    """
    if name == "merged":
        return Merged(dtype=dtype, compared_in=compared_in, device=device, whole_pipeline=whole_pipeline)
    formats: dict[str, type[Format]] = {"peft": Peft, "diffusers": Diffusers, "comfyui": ComfyUI}
    if name not in formats:
        raise ValueError(f"format={name} is not known; choose one of {', '.join(FORMATS)}")
    return formats[name](dtype=dtype, compared_in=compared_in, device=device)


def comfyui_tensors(transformer: nn.Module, name: str) -> dict[str, Tensor]:
    """An adapter's factors by ComfyUI's keys, with an alpha for each layer."""
    tensors: dict[str, Tensor] = {}
    strength = adapter_strength(transformer, name)
    for key, value in adapter_parameters(transformer, name).items():
        tensors[COMFYUI_PREFIX + key] = value
        if key.endswith(_A):
            alpha = torch.tensor(strength * value.shape[0], dtype=torch.float32)
            tensors[COMFYUI_PREFIX + key.removesuffix(_A) + _ALPHA] = alpha
    return tensors


@dataclass(frozen=True)
class Factors:
    """An adapter's factors on the CPU, apart from the model that held it.

    Attributes:
        by_key: ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``.
        strength: What their product is multiplied by.
    """

    by_key: Mapping[str, Tensor]
    strength: float

    @staticmethod
    def of(model: PipelineModel, name: str) -> Factors:
        """Copies of one adapter's factors."""
        held = adapter_parameters(model.transformer, name)
        return Factors(
            {key: value.detach().cpu().clone() for key, value in held.items()},
            adapter_strength(model.transformer, name),
        )


def add_adapter_product(transformer: nn.Module, factors: Factors) -> None:
    """Add an adapter to the weights of its layers, each sum rounded to the weight's precision."""
    for key, down in factors.by_key.items():
        if key.endswith(_A):
            layer = key.removesuffix(_A)
            add_product(transformer, layer, down, factors.by_key[layer + _B], factors.strength)


@torch.no_grad()
def add_product(transformer: nn.Module, layer: str, down: Tensor, up: Tensor, strength: float) -> None:
    """``weight += strength * up @ down``, computed in fp32."""
    weight = cast(Tensor, transformer.get_submodule(layer).weight)
    product = strength * (up.float() @ down.float())
    weight.copy_((weight.float() + product.to(weight.device)).to(weight.dtype))
