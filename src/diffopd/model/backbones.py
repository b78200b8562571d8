"""Whole transformers beside a model's own, chosen by name as adapters are."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffopd.types import Conditioning

Velocity = Callable[..., Tensor]


class Backbones(nn.Module):
    """Transformers of one family that answer in the place of a model's own: teachers and trained policies.

    As a part of the model they move with it from device to device. Each takes the memory of a backbone, and
    each forward that has rows of it runs it once on these rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held = nn.ModuleDict()
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the transformers that are held."""
        return tuple(self._held)

    @property
    def transformers(self) -> tuple[nn.Module, ...]:
        """The transformers that are held."""
        return tuple(self._held.values())

    def add(self, name: str, transformer: nn.Module) -> None:
        """Hold a transformer, frozen.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self._held:
            raise ValueError(f"the model already holds a transformer named {name}; it holds {self.names}")
        self._held[name] = transformer.requires_grad_(False).eval()

    def named(self, name: str) -> nn.Module:
        """The transformer of that name."""
        return self._held[name]

    @staticmethod
    def prefix(name: str) -> str:
        """How keys of the transformer's weights begin in the model's state dict."""
        return f"backbones._held.{name}."

    def remove(self, name: str) -> None:
        """Let go of a transformer."""
        del self._held[name]

    def train(self, mode: bool = True) -> Backbones:
        """Stay in evaluation mode."""
        return super().train(False)

    @contextlib.contextmanager
    def in_place_of_own(self, model: nn.Module, name: str) -> Iterator[None]:
        """Within this block ``model.transformer`` is the one called ``name``."""
        own: Any = model.transformer
        model.transformer = self._held[name]
        try:
            yield
        finally:
            model.transformer = own


def answered_by_backbones(velocity: Velocity) -> Velocity:
    """Let a model's ``velocity`` take names of its ``backbones`` where it takes names of adapters.

    Rows that name none go through the model's own transformer together, as without this.
    """

    @functools.wraps(velocity)
    def routed(
        model: Any,
        latent: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        adapters: str | Sequence[str] | None = None,
    ) -> Tensor:
        held: Backbones = model.backbones
        named = {adapters} if adapters is None or isinstance(adapters, str) else set(adapters)
        chosen = [name for name in held.names if name in named]
        if not chosen:
            return velocity(model, latent, sigma, conditioning, adapters)
        names = [adapters] * len(latent) if isinstance(adapters, str) else list(adapters or ())
        answer = torch.empty(latent.shape, device=latent.device)
        parts = {name: [row for row, used in enumerate(names) if used == name] for name in chosen}
        own = [row for row, used in enumerate(names) if used not in chosen]
        if own:
            rows = torch.tensor(own).to(latent.device, non_blocking=True)
            given = (latent[rows], sigma[rows], conditioning.select(own), [names[row] for row in own])
            answer = answer.index_copy(0, rows, velocity(model, *given))
        for name, places in parts.items():
            rows = torch.tensor(places).to(latent.device, non_blocking=True)
            with held.in_place_of_own(model, name):
                part = velocity(model, latent[rows], sigma[rows], conditioning.select(places), None)
            answer = answer.index_copy(0, rows, part)
        return answer

    return routed
