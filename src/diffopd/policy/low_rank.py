"""A policy of low-rank factors on the frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from diffopd.adapter import adapter_parameters, copy_adapter, export_lora, save_adapter
from diffopd.adapter.lora import adapter_layers, layer_parameters
from diffopd.policy.base import Policy


@final
class LowRank(Policy):
    """An adapter that lies on the model's transformer under its name.

    It keeps which layers it lies on: a round asks for its weights a dozen times.
    """

    name: str
    _layers: Mapping[str, Any] | None = None

    def weights(self) -> Mapping[str, nn.Parameter]:
        """The factors A and B of every layer."""
        if self._layers is None:
            adapter_parameters(self.model.transformer, self.name)  # an error if there is no such adapter
            self._layers = adapter_layers(self.model.transformer, self.name)
        return layer_parameters(self._layers, self.name)

    def owns(self, key: str) -> bool:
        """Whether an entry is one of its factors."""
        return ".lora_" in key and f".{self.name}." in key

    def copy_from(self, other: Policy) -> None:
        """Take the factors of an adapter of the same layers, rank and strength.

        Raises:
            ValueError: If they differ, or the other is no adapter.
        """
        if not isinstance(other, LowRank):
            raise ValueError(f"{self.name} is an adapter and {other.name} is none")
        copy_adapter(self.model.transformer, other.name, self.name)

    def is_base(self) -> bool:
        """Whether its update is 0: every factor B is."""
        return not any(bool(value.any()) for value in self._second_factors())

    @torch.no_grad()
    def become_base(self) -> None:
        """Set every factor B to 0; the factors A stay, or no gradient would reach them again."""
        for value in self._second_factors():
            value.zero_()

    def _second_factors(self) -> list[nn.Parameter]:
        return [value for key, value in self.weights().items() if key.endswith(".lora_B.weight")]

    def save(self, folder: Path) -> None:
        """Write it as a PEFT folder."""
        save_adapter(self.model.transformer, self.name, folder)

    def export(self, folder: Path) -> None:
        """Write it for the stock pipeline's ``load_lora_weights``."""
        export_lora(self.model.transformer, self.name, folder)
