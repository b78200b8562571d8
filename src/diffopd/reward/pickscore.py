"""PickScore: a CLIP ViT-H/14 trained on people's choices between two images of one prompt.

References:
    Kirstain et al., "Pick-a-Pic", 2023, arXiv:2305.01569.
"""

from __future__ import annotations

import functools

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.clip import Clip
from diffopd.reward.frozen import Precision
from diffopd.reward.pixels import cut_by_pil
from diffopd.reward.scale import Scale, checked_scale
from diffopd.reward.sunset import sunset_and_noise
from diffopd.types import KnownPair, Prompts, Scores

TRAINING_DIVISOR = 26.0
"""Flow-GRPO and DiffusionNFT train on PickScore over this; tables print it undivided."""


class PickScoreReward:
    """``exp(logit_scale) * cosine`` of image and prompt, over 26 in the training scale.

    Args:
        path: Folder or hub id with ``config.json`` and safetensors.
        revision: Of a hub id; None = newest.
        tokenizer_path: Folder or hub id with the tokenizer; None = in ``path``.
        scale: ``"training"`` or ``"table"``.
        batch_size: Images, or prompts, in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

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
            reward="pickscore",
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        )
        self.scale = checked_scale(scale)

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        prepare = functools.partial(cut_by_pil, offset="floor")
        raw = self.clip.logit_scale * self.clip.cosines(images, prompts.texts, prepare)
        if self.scale == "training":
            return Scores(raw / TRAINING_DIVISOR, {}, f"PickScore / {TRAINING_DIVISOR:g}")
        return Scores(raw, {}, "PickScore: exp(logit_scale) * cosine")
