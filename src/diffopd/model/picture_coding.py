"""Between pictures and latents: the autoencoder, a few pictures at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float
from torch import Tensor, nn

from diffopd.files.picture import read_picture
from diffopd.types import Picture

MAX_KEPT = 4096
"""Encoded pictures kept in memory at most; one of a megapixel takes 1 MB."""


class PictureCoding(nn.Module, ABC):
    """The part of a :class:`~diffopd.model.PipelineModel` that decodes latents and encodes pictures.

    An autoencoder takes most of its memory while it works (about 0.8 GB per picture of 512 pixels in fp32,
    four times that at 1024), so it is given ``decode_batch_size`` pictures at once, however many are asked
    for.

    Attributes:
        frames: True if the autoencoder works on films; a picture is one of a single frame.
        vae: The autoencoder.
        decode_batch_size: Most pictures it works on at once, or None for all.
    """

    frames: ClassVar[bool] = False
    vae: Any
    decode_batch_size: int | None
    _kept: dict[str, Tensor]

    @abstractmethod
    def to_vae(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder decodes them."""

    @abstractmethod
    def from_vae(self, raw: Tensor) -> Tensor:
        """Latents from what the autoencoder encodes; the inverse of :meth:`to_vae`."""

    @property
    def vae_config(self) -> Any:
        """The autoencoder's settings."""
        return cast(Any, self.vae.config)

    def decode(
        self, latents: Float[Tensor, " batch channel height width"]
    ) -> Float[Tensor, " batch 3 image_height image_width"]:
        """Images in [0, 1], fp32."""
        return torch.cat([self._decoded(part) for part in self._parts(latents)])

    def encode_images(
        self,
        images: Float[Tensor, " batch 3 image_height image_width"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch channel height width"]:
        """Latents of images, fp32.

        Args:
            images: In [0, 1].
            generator: Draws from the encoder's distribution, for all images at once; None takes its mode.
        """
        parameters = torch.cat([self._encoded(part) for part in self._parts(images)])
        distribution = DiagonalGaussianDistribution(parameters)
        raw = distribution.mode() if generator is None else distribution.sample(generator)
        return self.from_vae(raw.float())

    @torch.no_grad()
    def encode_picture(self, picture: Picture) -> Float[Tensor, " channel height width"]:
        """The latent of a picture file, fp32 on the CPU: the mode of the encoder's distribution.

        Each is encoded alone, so that it does not depend on others, and the latest ``MAX_KEPT`` are kept.

        Raises:
            ValueError: If it cannot be read.
        """
        key = picture.key
        if key not in self._kept:
            image = read_picture(picture)[None].to(next(self.vae.parameters()).device)
            self._kept[key] = self.encode_images(image)[0].cpu()
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[key]

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self.decode_batch_size or max(1, len(rows)))

    def _decoded(self, latents: Tensor) -> Tensor:
        images = self.vae.decode(self.to_vae(latents.to(self.vae.dtype)), return_dict=False)[0].float()
        return ((images[:, :, 0] if self.frames else images) / 2 + 0.5).clamp(0, 1)

    def _encoded(self, images: Tensor) -> Tensor:
        """Mean and logarithm of the variance, side by side."""
        given = (images * 2 - 1).to(self.vae.dtype)
        return self.vae.encode(given[:, :, None] if self.frames else given).latent_dist.parameters
