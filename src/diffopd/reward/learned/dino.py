"""Distance of pictures by DINO: what they show and how, with little regard to where.

References:
    Oquab et al., "DINOv2", 2023, arXiv:2304.07193; Simeoni et al., "DINOv3", 2025, arXiv:2508.10104.
    Ruiz et al., "DreamBooth", 2022, arXiv:2208.12242 (DINO as a measure of a subject).
    D-OPSD, 2026, arXiv:2605.05204 (DINO-D: mean of the patch tokens, DINOv3 ViT-S+/16).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, PreTrainedModel

from diffopd.files.names import MODEL_CONFIG
from diffopd.reward.learned.lazy_network import Frozen, Precision, checked_batch_size, load_pretrained
from diffopd.reward.learned.weights import weights_folder
from diffopd.weights.files import read_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as in DINO's training."""
KINDS: dict[str, type[PreTrainedModel]] = {
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
    "dinov3_vit": DINOv3ViTModel,
}
"""``model_type`` of ``config.json`` -> class."""


class DinoDistance:
    """1 minus the cosine of two pictures' mean patch tokens, after the network's last norm; in [0, 2].

    Args:
        path: Folder or hub id with ``config.json`` and safetensors of a DINOv2 or DINOv3 ViT.
        revision: Of a hub id; None = newest.
        image_size: Pixels to which the shorter side is resized before the middle is cut out; a multiple of
            the network's patch.
        batch_size: Pictures in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    description = "DINO-D: 1 - cosine of mean patch tokens"

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        image_size: int,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        setting = "reward.distance.path"
        folder = weights_folder(path, revision, reward=None, setting=setting)
        config = read_json(folder / MODEL_CONFIG, f"{setting}={path}/{MODEL_CONFIG}")
        kind = KINDS.get(str(config.get("model_type")))
        if kind is None:
            raise ValueError(
                f"{setting}={path} holds a {config.get('model_type')}; one of {', '.join(KINDS)} is needed"
            )
        patch = int(config.get("patch_size", 16))
        if image_size < patch or image_size % patch:
            raise ValueError(
                f"reward.distance.image_size={image_size} must be a multiple of the network's patch, {patch} "
                "pixels"
            )
        self.image_size = image_size
        self.batch_size = checked_batch_size(batch_size)
        load = functools.partial(_load, kind, folder)
        self._frozen: Frozen[PreTrainedModel] = Frozen(
            load, dtype=dtype, device=device, setting="reward.distance"
        )

    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], pictures: Float[Tensor, " batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """The distance of each image from the picture in its row."""
        found = [self._features(batch) for batch in (images, pictures)]
        return (1 - cosine_similarity(*found, dim=1)).to(images.device)

    @torch.no_grad()
    def _features(self, images: Float[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch channel"]:
        network, found = self._frozen.network, []
        config: Any = network.config
        first = 1 + getattr(config, "num_register_tokens", 0)  # the class token, then the registers
        for batch in images.split(self.batch_size):
            pixels = prepared(batch, self.image_size).to(self._frozen.device, self._frozen.dtype)
            tokens = network(pixel_values=pixels).last_hidden_state[:, first:]
            found.append(tokens.float().mean(1))
        return torch.cat(found)


def prepared(
    images: Float[Tensor, " batch 3 height width"], side: int
) -> Float[Tensor, " batch 3 side side"]:
    """Images in [0, 1] scaled to cover a square (bicubic, antialiased), cut around the middle, normalized."""
    height, width = images.shape[-2:]
    factor = side / min(height, width)
    size = (max(round(height * factor), side), max(round(width * factor), side))
    resized = interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    cut = resized[..., top : top + side, left : left + side]
    mean, std = (cut.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (cut - mean) / std


def _load(kind: type[PreTrainedModel], folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    return load_pretrained(kind, folder, dtype, setting="reward.distance.path")
