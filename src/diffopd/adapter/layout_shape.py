"""From the factors of a file to those of the model's layers, and to one rank and strength for all layers.

Every product ``strength * B A`` is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffopd.adapter.layout_keys import Pair
from diffopd.adapter.merge import A, B


@dataclass(frozen=True)
class LayerFactors:
    """What an adapter adds to one layer: ``strength * up @ down``.

    Attributes:
        down: ``A``, of shape (rank, in).
        up: ``B``, of shape (out, rank).
        strength: What scales their product.
        name: What the file calls the layer.
    """

    down: Tensor
    up: Tensor
    strength: float
    name: str

    @property
    def rank(self) -> int:
        """Rows of ``A``."""
        return self.down.shape[0]

    @property
    def by_key(self) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
        """Both factors after the ends of their keys."""
        return (A, self.down), (B, self.up)


@dataclass(frozen=True)
class OneShape:
    """The factors of all layers in one rank and strength.

    Attributes:
        rank: The largest of the layers.
        strength: What scales every product.
        factors: ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``.
        padded: Whether layers of a smaller rank were filled up with zeros.
    """

    rank: int
    strength: float
    factors: Mapping[str, Tensor]
    padded: bool


def by_layer(
    pairs: Iterable[tuple[Pair, float]], widths: Mapping[str, tuple[int, int]], where: str
) -> dict[str, LayerFactors]:
    """Take joined layers apart.

    Args:
        pairs: The file's factors, each with its strength.
        widths: Layers of the model with the width of their input and output.
        where: Where the config names the file, and the file's name, for messages.

    Raises:
        ValueError: If two modules of the file change one layer differently, or a joined one does not fit.
    """
    found: dict[str, LayerFactors] = {}
    for pair, strength in pairs:
        for layer, (down, up) in _parts(pair, widths, where).items():
            factors = LayerFactors(down, up, strength, pair.stem)
            if layer in found and not _same(found[layer], factors):
                raise ValueError(
                    f"{where} changes layer {layer} twice and differently, as {found[layer].name} and as "
                    f"{factors.name}; save one of the two"
                )
            found.setdefault(layer, factors)
    return found


def one_shape(layers: Mapping[str, LayerFactors]) -> OneShape:
    """One rank and strength for all layers: smaller ranks are filled up with zeros, strengths go into ``B``.

    Args:
        layers: At least one.
    """
    ranks = {factors.rank for factors in layers.values()}
    rank = max(ranks)
    strength = Counter(factors.strength for factors in layers.values()).most_common(1)[0][0]
    values: dict[str, Tensor] = {}
    for layer, factors in layers.items():
        missing, up = rank - factors.rank, factors.up
        if factors.strength != strength:
            up = up.float() * (factors.strength / strength)
        values[layer + A] = pad(factors.down, (0, 0, 0, missing))
        values[layer + B] = pad(up, (0, missing))
    return OneShape(rank, strength, values, padded=len(ranks) > 1)


def _parts(pair: Pair, widths: Mapping[str, tuple[int, int]], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> its factors: all of ``A``, and its rows of ``B``."""
    layers, up = pair.module.layers, pair.up
    if pair.module.swapped:
        up = torch.cat(up.chunk(2)[::-1])
    if len(layers) == 1:
        return {layers[0]: (pair.down, up)}
    rows = [widths[layer][1] for layer in layers]
    if sum(rows) != len(up):
        raise ValueError(
            f"{where}: {pair.module.name} has {len(up)} rows in {B}, the layers {', '.join(layers)} of this "
            f"model have {sum(rows)} together; use the model the adapter was trained on"
        )
    ups, count = up.split(rows), len(rows)
    downs = (pair.down,) * count
    if pair.rank % count == 0 and _in_blocks(ups):
        downs, ups = pair.down.chunk(count), tuple(up.chunk(count, 1)[i] for i, up in enumerate(ups))
    return {layer: (down, up) for layer, down, up in zip(layers, downs, ups, strict=True)}


def _in_blocks(ups: tuple[Tensor, ...]) -> bool:
    """Whether layers were trained apart and joined afterwards: each reads its own share of ``A`` alone."""
    blocks = [up.chunk(len(ups), 1) for up in ups]
    own = [row[place] for place, row in enumerate(blocks)]
    others = [block for place, row in enumerate(blocks) for at, block in enumerate(row) if at != place]
    return all(bool(block.float().any()) for block in own) and not any(
        bool(block.float().any()) for block in others
    )


def _same(one: LayerFactors, other: LayerFactors) -> bool:
    """Whether two factorisations add the same, up to rounding."""
    if (one.down.shape[1], len(one.up)) != (other.down.shape[1], len(other.up)):
        return False
    first, second = (
        factors.strength * (factors.up.float() @ factors.down.float()) for factors in (one, other)
    )
    return torch.allclose(first, second, rtol=1e-3, atol=1e-5 * float(first.abs().max()))
