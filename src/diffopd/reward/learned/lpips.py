"""LPIPS with VGG16, whose distance of two pictures follows what people see better than pixels do.

torchmetrics has the same network, but builds it with torchvision, which downloads it. Here a folder has it.

References:
    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018,
    arXiv:1801.03924 (version 0.1 of the linear layers, which torchmetrics ships).
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import ScalingLayer, _normalize_tensor, _spatial_average

from diffopd.reward.learned.lazy_network import Frozen, Precision, checked_batch_size
from diffopd.reward.learned.released import read_released
from diffopd.reward.learned.weights import WEIGHTS, weights_folder
from diffopd.weights.finite import check_finite

BLOCKS = (2, 2, 3, 3, 3)
"""Convolutions of VGG16 before each pooling."""
SETTING = "reward.distance.path"


class LpipsDistance:
    """LPIPS of two pictures, at least 0.

    Args:
        path: Folder with the safetensors that ``diffopd.convert reward=lpips_nearness`` writes, or the hub id
            of such a folder.
        revision: Of a hub id; None = newest.
        batch_size: Pictures in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    description = "LPIPS-D: LPIPS by VGG16"

    def __init__(
        self, *, path: str, revision: str | None, batch_size: int, dtype: Precision, device: str
    ) -> None:
        folder = weights_folder(path, revision, reward="lpips_nearness", setting=SETTING)
        load = functools.partial(_load, folder)
        self._frozen: Frozen[Lpips] = Frozen(load, dtype=dtype, device=device, setting="reward.distance")
        self.batch_size = checked_batch_size(batch_size)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], pictures: Float[Tensor, " batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """The distance of each image from the picture in its row."""
        network, found = self._frozen.network, []
        batches = zip(images.split(self.batch_size), pictures.split(self.batch_size), strict=True)
        for first, second in batches:
            pair = (batch.to(self._frozen.device, self._frozen.dtype) for batch in (first, second))
            found.append(network(*pair).float())
        return torch.cat(found).to(images.device)


class Lpips(nn.Module):
    """VGG16 up to its last activation, and a weight for each of the channels before the poolings.

    Args:
        widths: Channels of the five blocks; VGG16's are 64, 128, 256, 512 and 512.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = ScalingLayer()
        self.features = nn.ModuleDict()
        channels, place = 3, 0
        for width, number in zip(widths, BLOCKS, strict=True):
            for _ in range(number):
                self.features[str(place)] = nn.Conv2d(channels, width, 3, padding=1)
                channels, place = width, place + 2
            place += 1
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(1, width, 1, 1)) for width in widths)

    def forward(
        self, images: Float[Tensor, " batch 3 height width"], pictures: Float[Tensor, " batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """LPIPS of images and pictures in [0, 1]."""
        total = images.new_zeros(len(images))
        ours, theirs = (self.scale(2 * batch - 1) for batch in (images, pictures))
        convolutions = iter(self.features.values())
        for block, weight in enumerate(self.weights):
            if block:
                ours, theirs = (nn.functional.max_pool2d(seen, 2) for seen in (ours, theirs))
            for _ in range(BLOCKS[block]):
                layer = next(convolutions)
                ours, theirs = layer(ours).relu(), layer(theirs).relu()
            difference = (_normalize_tensor(ours) - _normalize_tensor(theirs)).square()
            total = total + _spatial_average((weight * difference).sum(1, keepdim=True)).flatten()
        return total


def lpips_tensors(released: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an :class:`Lpips` from released files.

    Args:
        released: torchvision's VGG16, ``features.<place>.weight`` and ``.bias``; its classifier is left out.
        linear: LPIPS's linear layers, ``lin<block>.model.1.weight``.

    Raises:
        ValueError: If a tensor is missing or of another shape.
    """
    tensors = {name: tensor for name, tensor in released.items() if name.startswith("features.")}
    tensors |= {f"weights.{block}": linear[f"lin{block}.model.1.weight"] for block in range(len(BLOCKS))}
    network = network_of(tensors)
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(
            f"torchvision's vgg16 is needed; missing or of another shape: {', '.join(wrong[:5])}"
        )
    return tensors


def published_linear() -> dict[str, Tensor]:
    """LPIPS's linear layers for VGG16, version 0.1, which torchmetrics ships."""
    files = importlib.resources.files("torchmetrics.functional.image")
    with importlib.resources.as_file(files / "lpips_models" / "vgg.pth") as file:
        return read_released(file, setting="torchmetrics")


def network_of(tensors: Mapping[str, Tensor]) -> Lpips:
    """The untrained network of the widths that ``tensors`` have."""
    return Lpips(tuple(tensors[f"weights.{block}"].shape[1] for block in range(len(BLOCKS))))


def _load(folder: Path, dtype: torch.dtype) -> Lpips:
    try:
        tensors = load_file(folder / WEIGHTS)
        network = network_of(tensors)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{SETTING}: {folder} holds no LPIPS network ({error})") from error
    check_finite(network, f"{SETTING}: {folder}", setting="reward.distance.dtype")
    return network.to(dtype)
