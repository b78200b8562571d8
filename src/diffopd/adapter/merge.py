"""One low-rank adapter from several: their mean as weights, or the mean of their factors.

An adapter of strength ``s = alpha / rank`` adds ``s B A`` to a layer. The mean of several therefore is the
mean of the products, which is not the product of the mean factors.

References:
    "Flow-OPD", 2026, arXiv:2605.08063: a student that starts as the merge of its teachers. Its code takes the
    mean of each factor, ``elementwise`` here; ``exact`` and ``svd`` are the mean of what the teachers do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

MergeMethod = Literal["exact", "svd", "elementwise"]
METHODS: tuple[str, ...] = get_args(MergeMethod)

A, B = ".lora_A.weight", ".lora_B.weight"
"""How the names of a layer's two factors end."""


@dataclass(frozen=True, kw_only=True)
class MergePart:
    """An adapter that goes into a merge.

    Attributes:
        factors: ``<layer>.lora_A.weight`` of shape (rank, in) and ``<layer>.lora_B.weight`` of shape
            (out, rank).
        strength: Its ``alpha / rank``.
        share: Its share of the mean; the shares of all parts sum to 1.
    """

    factors: Mapping[str, Tensor]
    strength: float
    share: float


@dataclass(frozen=True, kw_only=True)
class MergeError:
    """Distance of a merge from the mean of the products, relative to the norm of that mean.

    Attributes:
        layers: Relative Frobenius error of each layer.
        overall: The same of all layers as one vector.
    """

    layers: Mapping[str, float]
    overall: float

    def __str__(self) -> str:
        low, high = (
            min(self.layers, key=self.layers.__getitem__),
            max(self.layers, key=self.layers.__getitem__),
        )
        return (
            f"{self.overall:.4g} over all layers, "
            f"from {self.layers[low]:.4g} ({low}) to {self.layers[high]:.4g} ({high})"
        )


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What ``adapter.merge`` asks for.

    Attributes:
        method: ``exact``, ``svd`` or ``elementwise``.
        folders: PEFT folders of the parts; may be ``package://...``.
        shares: Share of each in the mean; they sum to 1.
    """

    method: MergeMethod
    folders: Sequence[str]
    shares: Sequence[float]

    @staticmethod
    def read(settings: Mapping[str, Any]) -> MergePlan:
        """The plan in ``{method, folders, weights}``, where weights may be null for equal ones.

        Raises:
            ValueError: If a key is missing or unknown, or a value makes no sense.
        """
        needed = {"method", "folders", "weights"}
        if set(settings) != needed:
            raise ValueError(f"adapter.merge has keys {sorted(settings)}, it needs {sorted(needed)}")
        method, folders, weights = settings["method"], settings["folders"], settings["weights"]
        if method not in METHODS:
            raise ValueError(
                f"adapter.merge.method={method} is not known; choose one of {', '.join(METHODS)}"
            )
        if isinstance(folders, str) or not folders:
            raise ValueError(f"adapter.merge.folders={folders!r} must be a list of at least one PEFT folder")
        given = [1.0] * len(folders) if weights is None else [float(weight) for weight in weights]
        if len(given) != len(folders):
            raise ValueError(
                f"adapter.merge.weights has {len(given)} entries for {len(folders)} folders; "
                "give one each, or null"
            )
        if not all(0 <= weight < math.inf for weight in given) or not sum(given) > 0:
            raise ValueError(
                f"adapter.merge.weights={given} must be finite, at least 0 and not all 0; null = equal ones"
            )
        shares = tuple(weight / sum(given) for weight in given)
        return MergePlan(method=method, folders=tuple(folders), shares=shares)


def merge_adapters(
    method: MergeMethod, parts: Sequence[MergePart], *, rank: int, strength: float
) -> tuple[dict[str, Tensor], MergeError]:
    """Merge adapters into one of a given shape.

    Args:
        method: ``exact``, ``svd`` or ``elementwise``.
        parts: The adapters, all on the same layers.
        rank: Rank of the result.
        strength: ``alpha / rank`` of the result.

    Returns:
        The result's factors in fp32, and its distance from the mean of the products.

    Raises:
        ValueError: If the parts do not fit each other, or the result's shape does not fit the method.
    """
    _check_layers(parts)
    check_shape(method, [_rank(part) for part in parts], rank=rank, strength=strength)
    if method == "exact":
        merged = exact(parts, strength=strength)
    elif method == "svd":
        merged = svd(parts, rank=rank, strength=strength)
    else:
        merged = elementwise(parts, strength=strength)
    return merged, merge_error(merged, parts, strength=strength)


def check_shape(method: MergeMethod, ranks: Sequence[int], *, rank: int, strength: float) -> None:
    """Check that a merge can have a rank.

    Args:
        method: ``exact``, ``svd`` or ``elementwise``.
        ranks: Rank of each adapter.
        rank: Rank of the result.
        strength: ``alpha / rank`` of the result, for the advice.

    Raises:
        ValueError: If the result's rank does not fit; with what is needed.
    """
    listed, total = ", ".join(map(str, ranks)), sum(ranks)
    if method == "exact" and rank != total:
        raise ValueError(
            f"adapter.rank={rank}, but the exact merge of adapters of rank {listed} has rank {total}; set "
            f"adapter.rank={total} adapter.alpha={total * strength:g}, or adapter.merge.method=svd to cut it"
        )
    if method == "svd" and rank > total:
        raise ValueError(
            f"adapter.rank={rank}, but adapters of rank {listed} have rank {total} together, and the rest "
            f"would never be trained; set adapter.rank to at most {total}"
        )
    if method != "elementwise":
        return
    if len(set(ranks)) > 1:
        raise ValueError(
            f"adapter.merge.method=elementwise needs adapters of one rank, got ranks {listed}; use "
            "adapter.merge.method=exact or svd"
        )
    if rank != ranks[0]:
        raise ValueError(
            f"adapter.rank={rank}, but adapter.merge.method=elementwise keeps the rank of the adapters; set "
            f"adapter.rank={ranks[0]} adapter.alpha={ranks[0] * strength:g}"
        )


def exact(parts: Sequence[MergePart], *, strength: float) -> dict[str, Tensor]:
    """The mean of the products as one adapter, whose rank is the sum of the ranks.

    The factors ``A`` are stacked as they are; ``B`` carries its share, and its strength over the result's.

    Args:
        parts: The adapters.
        strength: ``alpha / rank`` of the result.

    Examples:
        >>> import torch
        >>> ones = {"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.ones(1, 1)}
        >>> half = MergePart(factors=ones, strength=2.0, share=0.5)
        >>> exact([half, half], strength=1.0)["x.lora_B.weight"]
        tensor([[1., 1.]])
    """
    merged: dict[str, Tensor] = {}
    for layer in _layers(parts[0]):
        scales = [part.share * part.strength / strength for part in parts]
        ups = [scale * part.factors[layer + B].float() for scale, part in zip(scales, parts, strict=True)]
        merged[layer + A] = torch.cat([part.factors[layer + A].float() for part in parts])
        merged[layer + B] = torch.cat(ups, dim=1)
    return merged


def svd(parts: Sequence[MergePart], *, rank: int, strength: float) -> dict[str, Tensor]:
    """The adapter of a given rank that is nearest to the mean of the products in the Frobenius norm.

    The product ``B A`` of the exact merge is never formed: with ``B = Q_b R_b`` and ``A' = Q_a R_a`` its
    singular values are those of the small ``R_b R_a'``. Their square roots go to both factors. In a layer
    that has fewer singular values than ``rank``, the rest is 0.

    Args:
        parts: The adapters.
        rank: Rank of the result.
        strength: ``alpha / rank`` of the result.
    """
    merged = exact(parts, strength=strength)
    for layer in _layers(parts[0]):
        left, left_core = torch.linalg.qr(merged[layer + B].double())
        right, right_core = torch.linalg.qr(merged[layer + A].double().T)
        u, values, vh = torch.linalg.svd(left_core @ right_core.T)
        kept = min(rank, len(values))
        root = values[:kept].sqrt()
        down, up = root[:, None] * (vh[:kept] @ right.T), (left @ u[:, :kept]) * root
        missing = rank - kept
        merged[layer + A] = torch.nn.functional.pad(down, (0, 0, 0, missing)).float()
        merged[layer + B] = torch.nn.functional.pad(up, (0, missing)).float()
    return merged


def elementwise(parts: Sequence[MergePart], *, strength: float) -> dict[str, Tensor]:
    """The mean of each factor by itself, as released.

    As releases give all adapters one alpha, each ``B`` is first brought to the strength of the result.

    Args:
        parts: The adapters, of one rank.
        strength: ``alpha / rank`` of the result.
    """

    def scale(part: MergePart, key: str) -> float:
        return part.share * (part.strength / strength if key.endswith(B) else 1.0)

    return {
        key: torch.stack([scale(part, key) * part.factors[key].float() for part in parts]).sum(0)
        for key in parts[0].factors
    }


def merge_error(merged: Mapping[str, Tensor], parts: Sequence[MergePart], *, strength: float) -> MergeError:
    """Distance of a merge from the mean of the products, from the factors alone.

    Args:
        merged: The result's factors.
        parts: The adapters it is made of.
        strength: ``alpha / rank`` of the result.
    """
    mean, gaps, norms = exact(parts, strength=strength), {}, {}
    for layer in _layers(parts[0]):
        up, down = mean[layer + B].double(), mean[layer + A].double()
        norms[layer] = _squared_norm(up, down)
        gaps[layer] = _squared_norm(
            torch.cat([merged[layer + B].double(), -up], dim=1),
            torch.cat([merged[layer + A].double(), down]),
        )
    layers = {layer: _relative(gaps[layer], norms[layer]) for layer in gaps}
    return MergeError(layers=layers, overall=_relative(sum(gaps.values()), sum(norms.values())))


def _squared_norm(up: Tensor, down: Tensor) -> float:
    """Squared Frobenius norm of ``up @ down``, without the product."""
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def _relative(gap: float, norm: float) -> float:
    if norm == 0:
        return 0.0 if gap == 0 else math.inf
    return math.sqrt(gap / norm)


def _layers(part: MergePart) -> list[str]:
    return [key.removesuffix(A) for key in part.factors if key.endswith(A)]


def _rank(part: MergePart) -> int:
    return next(cast(Tensor, value).shape[0] for key, value in part.factors.items() if key.endswith(A))


def _check_layers(parts: Sequence[MergePart]) -> None:
    for number, part in enumerate(parts):
        if different := sorted(set(parts[0].factors) ^ set(part.factors)):
            raise ValueError(
                f"adapters 0 and {number} of the merge are for different layers (first: {different[0]}); "
                "merge adapters with the same target_modules"
            )
