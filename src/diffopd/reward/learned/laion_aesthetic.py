"""LAION's aesthetic predictor: a linear head on CLIP ViT-L/14's unit image embedding; prompts play no part.

References:
    Schuhmann et al., "LAION-5B", 2022, arXiv:2210.08402; the head is ``sac+logos+ava1-l14-linearMSE``.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffopd.reward.learned.clip import Clip
from diffopd.reward.learned.lazy_network import Frozen, Precision
from diffopd.reward.learned.linear_head import LinearHead
from diffopd.reward.learned.pixels import cut_by_pil
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.learned.weights import WEIGHTS, weights_folder
from diffopd.reward.scale import Scale, checked_scale
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.weights.finite import check_finite

DESCRIPTION = "LAION aesthetic score, 1 to 10 as people rated"


class LaionAestheticReward:
    """The head's output, in both scales. It is in fp32 whatever the precision of CLIP.

    Args:
        path: Folder with the head's safetensors, as ``diffopd.convert`` writes it.
        revision: Of a hub id; None = newest.
        clip_path: Folder or hub id of OpenAI's CLIP ViT-L/14; another model of equal width gives numbers
            that mean nothing.
        clip_revision: Of a hub id; None = newest.
        scale: ``"training"`` or ``"table"``; the same number.
        batch_size: Images in one forward pass.
        dtype: Precision of CLIP.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        clip_path: str,
        clip_revision: str | None,
        scale: Scale,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        head = weights_folder(path, revision, reward="laion_aesthetic", setting="reward.path")
        clip = weights_folder(clip_path, clip_revision, reward="clipscore", setting="reward.clip_path")
        self.clip = Clip(
            clip, None, setting="reward.clip_path", batch_size=batch_size, dtype=dtype, device=device
        )
        self.head = Frozen(functools.partial(_load_head, head), dtype="fp32", device=device, setting="reward")
        self.scale = checked_scale(scale)

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; no gradient."""
        prepare = functools.partial(cut_by_pil, offset="floor")
        embeddings = self.clip.image_embeddings(images, prepare)
        head = self.head.network
        if embeddings.shape[1] != head.width:
            raise ValueError(
                f"reward.clip_path: its image embeddings have {embeddings.shape[1]} numbers, the head of "
                f"reward.path takes {head.width}; give OpenAI's CLIP ViT-L/14"
            )
        with torch.no_grad():
            raw = head(embeddings).to(images.device)
        return Scores(raw, {}, DESCRIPTION)


def _load_head(folder: Path, dtype: torch.dtype) -> LinearHead:
    try:
        tensors = load_file(folder / WEIGHTS)
        head = LinearHead(tensors["layers.0.weight"].shape[1])
        head.load_state_dict(tensors)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"reward.path: {folder / WEIGHTS} does not hold the aesthetic predictor's five layers: {error}"
        ) from error
    head = head.to(dtype)
    check_finite(head, f"reward.path: {folder}", setting="reward.dtype")
    return head
