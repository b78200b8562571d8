"""PickScore: a CLIP ViT-H/14 trained on people's choices between two images of one prompt.

References:
    Kirstain et al., "Pick-a-Pic", 2023, arXiv:2305.01569.
"""

from __future__ import annotations

import functools
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.learned.clip_cosine import ClipCosineReward
from diffopd.reward.learned.pixels import cut_by_pil
from diffopd.types import Prompts, Scores

TRAINING_DIVISOR = 26.0
"""Flow-GRPO and DiffusionNFT train on PickScore over this; tables print it undivided."""


@final
class PickScoreReward(ClipCosineReward):
    """``exp(logit_scale) * cosine`` of image and prompt, over 26 in the training scale."""

    reward: ClassVar[str] = "pickscore"

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        prepare = functools.partial(cut_by_pil, offset="floor")
        raw = self.clip.logit_scale * self.clip.cosines(images, prompts.texts, prepare)
        if self.scale == "training":
            return Scores(raw / TRAINING_DIVISOR, {}, f"PickScore / {TRAINING_DIVISOR:g}")
        return Scores(raw, {}, "PickScore: exp(logit_scale) * cosine")
