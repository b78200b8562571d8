"""Prompts as rewards and teachers see them, and as the backbone does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffopd.types.picture import Picture

KEPT = "kept"
"""The task of prompts whose teacher is told nothing more: what the model can do is to stay as it is."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts with what rewards and teachers need to know about them.

    Attributes:
        texts: The prompts as the user wrote them.
        tasks: Name of the task each prompt belongs to, e.g. ``"composition"``.
        metadata: One mapping per prompt; GenEval clauses (``tag``, ``include``, ``exclude``) live here.
        indices: Global sample index of each row, the same whatever the number of processes. All of a
            row's random draws derive from it, so a sample does not depend on its neighbors.
        groups: Index of the prompt each row repeats; rows of one group share statistics.
        targets: The picture that each row is to learn, or None; a network is not shown it.
        references: The pictures that a network is shown beside each text, in order.
        rejected: The picture that each row's target is preferred to, or None.
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    metadata: tuple[Mapping[str, Any], ...]
    indices: tuple[int, ...]
    groups: tuple[int, ...]
    targets: tuple[Picture | None, ...] = ()
    references: tuple[tuple[Picture, ...], ...] = ()
    rejected: tuple[Picture | None, ...] = ()

    def __post_init__(self) -> None:
        """Most prompts come without pictures."""
        rows = len(self.texts)
        object.__setattr__(self, "targets", self.targets or (None,) * rows)
        object.__setattr__(self, "references", self.references or ((),) * rows)
        object.__setattr__(self, "rejected", self.rejected or (None,) * rows)

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Sequence[int]) -> Prompts:
        """The given rows, in the given order."""
        return Prompts(*(tuple(column[r] for r in rows) for column in self._columns()))

    def key(self, row: int) -> tuple[str, ...]:
        """What a network is told about a row: rows with one key have one encoding, so caches go by it."""
        return (self.texts[row], *(picture.key for picture in self.references[row]))

    def with_texts(self, texts: Sequence[str]) -> Prompts:
        """The same rows, told in other words.

        Args:
            texts: One per row.
        """
        assert len(texts) == len(self)
        return replace(self, texts=tuple(texts))

    def with_references(self, references: Sequence[Sequence[Picture]]) -> Prompts:
        """The same rows, shown other pictures.

        Args:
            references: The pictures of each row.
        """
        assert len(references) == len(self)
        return replace(self, references=tuple(tuple(pictures) for pictures in references))

    def _columns(self) -> tuple[tuple[Any, ...], ...]:
        return (
            self.texts,
            self.tasks,
            self.metadata,
            self.indices,
            self.groups,
            self.targets,
            self.references,
            self.rejected,
        )

    @staticmethod
    def concat(parts: Sequence[Prompts]) -> Prompts:
        """All rows of ``parts``, in order."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return Prompts(*(tuple(x for column in c for x in column) for c in columns))


@dataclass(frozen=True)
class Conditioning:
    """What a network is told about some rows, encoded: opaque to phases, which select, join and move it.

    A backbone fills what it reads: not all have a pooled vector, and not all prompts are of one length.

    Attributes:
        embeds: Token embeddings. Where prompts differ in length, the tokens of each come first and the rest
            of its row says nothing.
        pooled: One vector per prompt, or None.
        lengths: Number of tokens of each prompt, as numbers, so that reading them never waits for a device;
            None = all of ``embeds`` counts.
        references: The latents of each row's reference pictures, each (channels, height, width); their number
            and sizes may differ from row to row. None = no row has any.
    """

    embeds: Float[Tensor, " batch token width"]
    pooled: Float[Tensor, " batch pooled"] | None = None
    lengths: tuple[int, ...] | None = None
    references: tuple[tuple[Tensor, ...], ...] | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def select(self, rows: Sequence[int] | Tensor) -> Conditioning:
        """The given rows, in the given order, as long as the longest of them."""
        index = torch.as_tensor(rows).to(self.embeds.device, non_blocking=True)
        pooled = None if self.pooled is None else self.pooled[index]
        if self.lengths is None and self.references is None:
            return Conditioning(self.embeds[index], pooled)
        chosen = rows.tolist() if isinstance(rows, Tensor) else rows
        references = None if self.references is None else tuple(self.references[row] for row in chosen)
        if self.lengths is None:
            return Conditioning(self.embeds[index], pooled, references=references)
        lengths = tuple(self.lengths[row] for row in chosen)
        return Conditioning(self.embeds[:, : max(lengths, default=0)][index], pooled, lengths, references)

    def rows_alike(self) -> list[list[int]]:
        """Row numbers, those whose references have the same shapes together, in the order of their first."""
        if self.references is None:
            return [list(range(len(self)))]
        groups: dict[tuple[torch.Size, ...], list[int]] = {}
        for row, latents in enumerate(self.references):
            groups.setdefault(tuple(latent.shape for latent in latents), []).append(row)
        return list(groups.values())

    def expand(self, batch: int) -> Conditioning:
        """One row repeated ``batch`` times, without copying it.

        Raises:
            ValueError: If there is more than one row.
        """
        if len(self) != 1:
            raise ValueError(f"only a single row can be repeated, this has {len(self)}")
        return Conditioning(
            self.embeds.expand(batch, -1, -1),
            None if self.pooled is None else self.pooled.expand(batch, -1),
            None if self.lengths is None else self.lengths * batch,
            None if self.references is None else self.references * batch,
        )

    def to(self, device: torch.device) -> Conditioning:
        """The same on ``device``."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        references = self.references
        if references is not None:
            references = tuple(tuple(latent.to(device) for latent in row) for row in references)
        return Conditioning(self.embeds.to(device), pooled, self.lengths, references)

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of ``parts``, in order, as long as the longest of them."""
        embeds, pooled, lengths = [p.embeds for p in parts], None, None
        if all(p.pooled is not None for p in parts):
            pooled = torch.cat([p.pooled for p in parts if p.pooled is not None])
        if all(p.lengths is not None for p in parts):
            lengths = tuple(length for p in parts for length in p.lengths or ())
            tokens = max(part.shape[1] for part in embeds)
            embeds = [nn.functional.pad(part, (0, 0, 0, tokens - part.shape[1])) for part in embeds]
        references = None
        if any(p.references is not None for p in parts):
            references = tuple(row for p in parts for row in p.references or ((),) * len(p))
        return Conditioning(torch.cat(embeds), pooled, lengths, references)
