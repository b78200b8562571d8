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
    each forward that has rows of it runs it once on these rows. Those that rest while idle wait on the CPU,
    wherever the model is: the one that was asked last is on the device of the model's own transformer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held = nn.ModuleDict()
        self._resting: set[str] = set()
        self._awake: str | None = None
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the transformers that are held."""
        return tuple(self._held)

    @property
    def transformers(self) -> tuple[nn.Module, ...]:
        """The transformers that are held."""
        return tuple(self._held.values())

    def add(self, name: str, transformer: nn.Module, *, rests: bool = False) -> None:
        """Hold a transformer, frozen.

        Args:
            name: Its name.
            transformer: The transformer.
            rests: Keep it on the CPU but from a forward of its own to one of another that rests.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self._held:
            raise ValueError(f"the model already holds a transformer named {name}; it holds {self.names}")
        self._held[name] = transformer.requires_grad_(False).eval()
        if rests:
            self._resting.add(name)
            transformer.to("cpu")

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
        self._resting.discard(name)
        self._awake = None if self._awake == name else self._awake

    def train(self, mode: bool = True) -> Backbones:
        """Stay in evaluation mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Backbones:
        """Move, but for those that rest, which come when they are asked."""
        for name, transformer in self._held.items():
            if name not in self._resting:
                transformer._apply(fn)
        return self

    def _wake(self, name: str, device: torch.device) -> None:
        """Have a transformer that rests on the device, and no other of those."""
        if self._awake == name:
            return
        if self._awake is not None:
            self._held[self._awake].to("cpu")
        self._held[name].to(device)
        self._awake = name

    @contextlib.contextmanager
    def in_place_of_own(self, model: nn.Module, name: str) -> Iterator[None]:
        """Within this block ``model.transformer`` is the one called ``name``."""
        own: Any = model.transformer
        if name in self._resting:
            self._wake(name, next(own.parameters()).device)
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
