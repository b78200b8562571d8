"""CLIPScore as Flow-GRPO and DiffusionNFT compute it: the cosine of image and prompt by OpenAI's ViT-L/14.

Hessel et al. multiply the cosine by 2.5 and cut it at 0; neither the released training code nor tables do.

References:
    Hessel et al., "CLIPScore", 2021, arXiv:2104.08718; Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.clip import Clip
from diffopd.reward.frozen import Precision
from diffopd.reward.pixels import cut_bilinear
from diffopd.reward.scale import Scale, checked_scale
from diffopd.reward.sunset import sunset_and_noise
from diffopd.types import KnownPair, Prompts, Scores

DESCRIPTION = "CLIPScore: exp(logit_scale) * cosine / 100, the cosine as OpenAI's logit_scale is 100"


class ClipScoreReward:
    """``exp(logit_scale) * cosine / 100`` of image and prompt, in both scales.

    Args:
        path: Folder or hub id with ``config.json`` and safetensors.
        revision: Of a hub id; None = newest.
        tokenizer_path: Folder or hub id with the tokenizer; None = in ``path``.
        scale: ``"training"`` or ``"table"``; the same number.
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
            reward="clipscore",
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
        raw = self.clip.logit_scale * self.clip.cosines(images, prompts.texts, cut_bilinear) / 100
        return Scores(raw, {}, DESCRIPTION)
