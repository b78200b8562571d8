"""A policy of whole weights: a transformer beside the model's own, for full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import nn

from diffopd.adapter import Shape
from diffopd.model import PipelineModel
from diffopd.model.saving import save_transformer
from diffopd.policy.base import Policy


@dataclass(frozen=True, kw_only=True)
class WholeWeights(Shape):
    """In the place of an adapter: every weight of the transformer is trained.

    Attributes:
        dtype: Precision of the trained weights: fp32, or bf16, in which small updates are lost to rounding.
        all_weights: What tells it from an adapter where only a config is read.
    """

    all_weights: ClassVar[bool] = True
    dtype: str = "fp32"


@final
class Whole(Policy):
    """A whole transformer that answers to its name in place of the model's own, which stays the base model.

    It takes the memory of a backbone in its precision, of gradients and of the optimizer's means.
    """

    name: str

    @classmethod
    def started(cls, model: PipelineModel, name: str, dtype: torch.dtype) -> Whole:
        """A policy that starts as the base model, frozen as yet.

        Args:
            model: Holds it from here on.
            name: Its name.
            dtype: Precision of its weights.
        """
        own = model.transformer
        transformer: Any = type(own).from_config(own.config)
        transformer.load_state_dict(_base_values(own, transformer))
        if own.is_gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        # As torch casts: diffusers' own method warns of layers to keep in fp32, where there are none.
        model.backbones.add(name, nn.Module.to(transformer, own.device, dtype))
        return cls(model, name)

    @property
    def transformer(self) -> nn.Module:
        """The weights, as a module."""
        return self.model.backbones.named(self.name)

    def weights(self) -> Mapping[str, nn.Parameter]:
        """All parameters of the transformer."""
        return dict(self.transformer.named_parameters())

    def owns(self, key: str) -> bool:
        """Whether an entry is one of the transformer's."""
        return key.startswith(f"model.{self.model.backbones.prefix(self.name)}")

    @torch.no_grad()
    def copy_from(self, other: Policy) -> None:
        """Take the values of another whole transformer.

        Raises:
            ValueError: If the other is none.
        """
        if not isinstance(other, Whole):
            raise ValueError(f"{self.name} is a whole transformer and {other.name} is none")
        self.transformer.load_state_dict(other.transformer.state_dict())

    def is_base(self) -> bool:
        """Whether every weight is the base model's, in the precision of its own."""
        base = _base_values(self.model.transformer, self.transformer)
        own = self.transformer.state_dict()
        return all(torch.equal(value, base[key].to(value)) for key, value in own.items())

    def become_base(self) -> None:
        """Take every weight of the base model."""
        self.transformer.load_state_dict(_base_values(self.model.transformer, self.transformer))

    def save(self, folder: Path) -> None:
        """Write it as diffusers does: ``config.json`` and safetensors."""
        save_transformer(self.transformer, folder)


def _base_values(own: nn.Module, like: nn.Module) -> dict[str, torch.Tensor]:
    """The base model's values by the names that a transformer without adapters has."""
    values = {key.replace(".base_layer.", "."): value for key, value in own.state_dict().items()}
    return {key: values[key] for key in like.state_dict()}
