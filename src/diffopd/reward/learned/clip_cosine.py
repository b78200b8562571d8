"""Scorers that compare image and prompt by a CLIP of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.learned.clip import Clip
from diffopd.reward.learned.lazy_network import Precision
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.scale import Scale, checked_scale
from diffopd.types import KnownPair, Prompts, Scores


class ClipCosineReward(ABC):
    """A score made of the cosine of image and prompt; which CLIP, pre-processing and factor is the scorer's.

    Args:
        path: Folder or hub id with ``config.json`` and safetensors; ``diffopd.convert`` writes such folders.
        revision: Of a hub id; None = newest.
        tokenizer_path: Folder or hub id with the tokenizer; None = in ``path``.
        scale: ``"training"`` or ``"table"``.
        batch_size: Images, or prompts, in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Attributes:
        reward: Its name on the command line.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    reward: ClassVar[str]

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        tokenizer_path: str | None,
        scale: Scale,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        self.clip = Clip.with_texts(
            path=path,
            revision=revision,
            tokenizer_path=tokenizer_path,
            reward=self.reward,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        )
        self.scale = checked_scale(scale)

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    @abstractmethod
    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
