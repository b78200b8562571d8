"""The keys of a LoRA file: each is understood, or an error names the first that is not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from diffopd.adapter.layout_names import LayerNames, Module
from diffopd.adapter.merge import A, B

EXPECTED = (
    "a plain LoRA has, per layer, <layer>.lora_A.weight and <layer>.lora_B.weight (or lora_down and "
    "lora_up), and at most <layer>.alpha besides"
)
"""What a plain LoRA file holds, for messages."""

_ALPHA = ".alpha"
_ENDINGS = (
    (A, re.compile(r"\.lora_A(?:\.(?P<adapter>\w+))?\.weight$")),
    (B, re.compile(r"\.lora_B(?:\.(?P<adapter>\w+))?\.weight$")),
    (A, re.compile(r"\.(?:lora_|lora\.|)down\.weight$")),
    (B, re.compile(r"\.(?:lora_|lora\.|)up\.weight$")),
    (_ALPHA, re.compile(r"\.alpha$")),
)
"""Ends of keys; PEFT may put an adapter's own name into them, such as ``default``."""

_TEXT_ENCODER = re.compile(
    r"(lora_te|lora_prior_te|text_encoder|text_model\.|clip_[lgh]\.|t5(xxl)?\.|te\d?\.)"
)
_OTHER_KINDS = (
    (re.compile(r"^bundle_emb\."), "a trained embedding of a prompt's token"),
    (re.compile(r"dora_scale|lora_magnitude_vector|\.magnitude(\.|$)"), "a magnitude of DoRA"),
    (re.compile(r"lokr_"), "a factor of LoKr"),
    (re.compile(r"hada_|loha_"), "a factor of LoHa"),
    (re.compile(r"oft_"), "a rotation of OFT"),
    (re.compile(r"glora|\.[ab][12]\.weight$"), "a factor of GLoRA"),
    (re.compile(r"lora_mid|\.lora_embedding_[AB]"), "the factor of a convolution or an embedding"),
    (re.compile(r"\.diff$|\.[wb]_norm$"), "the full change of a weight"),
    (re.compile(r"\.(diff_b|bias)$"), "a bias or the change of one"),
    (re.compile(r"\.(set_weight|reshape_weight)$"), "a replaced or reshaped weight"),
    (re.compile(r"\.(weight|scale)$"), "a whole weight"),
)
_CHANGES = re.compile(r"\.(diff|diff_b|bias)$")
"""Ends of keys whose value is added to something, so that zeros change nothing."""


@dataclass(frozen=True)
class Pair:
    """The two factors of a module as the file names it.

    Attributes:
        stem: That name, with all that stands before it.
        module: What it stands for in the model.
        down: ``A``, of shape (rank, in).
        up: ``B``, of shape (out, rank).
        alpha: The file's own alpha of it, or None.
    """

    stem: str
    module: Module
    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        """Rows of ``A``."""
        return self.down.shape[0]


@dataclass
class _Found:
    """What the keys of one stem hold so far."""

    module: Module
    parts: dict[str, Tensor] = field(default_factory=dict)


def read_pairs(tensors: Mapping[str, Tensor], names: LayerNames, family: str, where: str) -> list[Pair]:
    """The factors of every module of a file.

    Args:
        tensors: The file's content.
        names: Finds the layers that its keys name.
        family: Class of the model's transformer, for messages.
        where: Where the config names the file, and the file's name, for messages.

    Raises:
        ValueError: If a key is no factor or alpha of a layer of the model; names the first such key.
    """
    found: dict[str, _Found] = {}
    adapters: dict[str, str] = {}
    for key, value in tensors.items():
        if _CHANGES.search(key) and not value.float().any():
            continue
        split = _split(key)
        if split is None:
            raise _other_kind(key, where)
        stem, part, adapter = split
        module = names.find(stem)
        if module is None:
            raise _unknown(key, tensors, names, family, where)
        if part != _ALPHA:
            adapters.setdefault(adapter, key)
        if len(adapters) > 1:
            first, second = list(adapters.values())[:2]
            raise ValueError(
                f"{where} holds two adapters, that of {first} and that of {second}; save each by itself"
            )
        parts = found.setdefault(stem, _Found(module)).parts
        if part in parts:
            raise ValueError(f"{where}: {key} is the second {part} of {stem}; {EXPECTED}")
        parts[part] = value
    if not found:
        raise ValueError(f"{where} holds no factors of a LoRA; {EXPECTED}")
    return [_pair(stem, item, where) for stem, item in found.items()]


def _split(key: str) -> tuple[str, str, str] | None:
    """The name of a layer in a key, what of it the key holds, and the adapter's name in the key if any."""
    if _TEXT_ENCODER.match(key):
        return None
    for part, ending in _ENDINGS:
        if match := ending.search(key):
            return key[: match.start()], part, match.groupdict().get("adapter") or ""
    return None


def _other_kind(key: str, where: str) -> ValueError:
    if _TEXT_ENCODER.match(key):
        return ValueError(
            f"{where} also changes a text encoder ({key}); prompts are encoded once for all adapters of "
            "a run, so a LoRA may change the transformer alone. Save or train it without text encoders"
        )
    kind = next((kind for pattern, kind in _OTHER_KINDS if pattern.search(key)), "not known")
    return ValueError(f"{where} is not a plain LoRA: {key} is {kind}; {EXPECTED}")


def _unknown(
    key: str, tensors: Mapping[str, Tensor], names: LayerNames, family: str, where: str
) -> ValueError:
    splits = ((other, _split(other)) for other in tensors)
    known = next((other for other, split in splits if split and names.find(split[0])), None)
    if known is None:
        return ValueError(
            f"{where}: {key} names no linear layer of this model's {family} (such as {names.example}), nor "
            "does any other key; the file was made for another model than model=... chooses"
        )
    return ValueError(
        f"{where}: {key} names no linear layer of this model's {family}, while other keys do, such as "
        f"{known}; the file was made for another or a larger model than model=... chooses, or also changes "
        "convolutions or embeddings; "
        f"{EXPECTED}"
    )


def _pair(stem: str, found: _Found, where: str) -> Pair:
    parts = dict(found.parts)
    alpha = parts.pop(_ALPHA, None)
    if set(parts) != {A, B} or parts[A].ndim != 2 or parts[B].ndim != 2:
        shapes = {part: tuple(value.shape) for part, value in parts.items()}
        raise ValueError(f"{where}: layer {stem} has {shapes}; it needs the two matrices {A} and {B}")
    pair = Pair(
        stem, found.module, parts[A], parts[B], None if alpha is None else _number(stem, alpha, where)
    )
    if not pair.rank:
        raise ValueError(f"{where}: layer {stem} has rank 0, so {A} holds nothing; take the file's original")
    if pair.rank != pair.up.shape[1]:
        raise ValueError(f"{where}: layer {stem} has rank {pair.rank} in {A} and {pair.up.shape[1]} in {B}")
    return pair


def _number(stem: str, alpha: Tensor, where: str) -> float:
    value = float(alpha) if alpha.numel() == 1 else math.nan
    if not 0 < value < math.inf:
        raise ValueError(
            f"{where}: layer {stem} has alpha {alpha.tolist()}; one finite number above 0 is needed"
        )
    return value
