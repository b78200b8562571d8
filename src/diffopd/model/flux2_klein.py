"""FLUX.2 [klein] as a velocity model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast, final

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from diffopd.model.flux2_tokens import flux2_velocity
from diffopd.model.library_grid import check_grid
from diffopd.model.pipeline_model import PipelineModel
from diffopd.types import Conditioning, Picture, Prompts
from diffopd.types.size import Size


@final
class Flux2KleinModel(PipelineModel):
    """FLUX.2 [klein]: Qwen3 tokens; distilled to few steps without guidance, or a base model with it.

    Its latents are whole patches: squares of 2 x 2 cells of the autoencoder, each channel normalized by the
    statistics that the autoencoder carries. Reference pictures are read as further tokens after the picture's
    own, each in a frame of its own.
    """

    kind: ClassVar[Any] = Flux2KleinPipeline
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_lengths: ClassVar[tuple[int, int]] = (1, 512)
    reads_pictures: ClassVar[bool] = True
    identity_components: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "transformer", "vae")

    def latent_shape_at(self, size: Size) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        return (self.transformer.config.in_channels, size[0] // self.cell, size[1] // self.cell)

    @property
    def cell(self) -> int:
        """A token is 2 x 2 cells of the autoencoder."""
        return 2 * self.pipeline.vae_scale_factor

    def check_settings(self) -> None:
        """Is it distilled, as the config says? Does the grid move as it should?"""
        distilled = bool(self.pipeline.config.is_distilled)
        if distilled != self.step_distilled:
            answer = "true model.guidance_scale=1" if distilled else "false"
            raise ValueError(
                f"model.step_distilled={str(self.step_distilled).lower()}, but {self.path} says is_distilled="
                f"{str(distilled).lower()}; set model.step_distilled={answer}"
            )
        _, height, width = self.latent_shape_at(self.size)

        def mu(num_steps: int) -> float:
            return compute_empirical_mu(image_seq_len=height * width, num_steps=num_steps)

        check_grid(self.shift, self.pipeline.scheduler, mu, self.path)

    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """Three layers of the language model side by side; padding counts, as in the stock pipeline."""
        embeds, _ = cast(Any, self.pipeline).encode_prompt(
            prompt=texts, device=self.device, max_sequence_length=self.text_length
        )
        return Conditioning(embeds)

    def open_pictures(self) -> None:
        """The autoencoder reads them, and is there."""

    def condition(self, prompts: Prompts) -> Conditioning:
        """Encode texts, and reference pictures as the stock pipeline does: the mode of the posterior.

        Raises:
            ValueError: If a reference cannot be read, or its size is not a number of whole tokens.
        """
        told = self.encode(prompts.texts)
        if not any(prompts.references):
            return told
        shown = {picture.key: picture for row in prompts.references for picture in row}
        latents = {key: self._encoded_reference(picture) for key, picture in shown.items()}
        return replace(
            told, references=tuple(tuple(latents[p.key] for p in row) for row in prompts.references)
        )

    def _encoded_reference(self, picture: Picture) -> Tensor:
        """Its latent, (channels, height, width)."""
        if picture.height % self.cell or picture.width % self.cell:
            raise ValueError(
                f"{picture.path}: a reference of {picture.height} x {picture.width} pixels; {self.path} "
                f"reads pictures whose height and width are multiples of {self.cell}"
            )
        return self.encode_picture(picture).to(self.device)

    def predict(self, latent: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """References are read as further tokens after the picture's own."""
        shown = _by_turn(conditioning.references or (), latent)
        return flux2_velocity(self.transformer, latent, sigma, conditioning.embeds.to(latent.dtype), shown)

    def to_vae(self, latents: Tensor) -> Tensor:
        """Normalization undone, patches taken apart."""
        mean, std = self._statistics(latents)
        patches = latents * std + mean
        batch, channels, height, width = patches.shape
        cells = patches.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return cells.reshape(batch, channels // 4, 2 * height, 2 * width)

    def from_vae(self, raw: Tensor) -> Tensor:
        """Cells brought together in patches, then normalized."""
        batch, channels, height, width = raw.shape
        cells = raw.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        patches = cells.reshape(batch, 4 * channels, height // 2, width // 2)
        mean, std = self._statistics(patches)
        return (patches - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel."""
        norm = self.vae.bn
        std = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + self.vae_config.batch_norm_eps)
        return norm.running_mean.view(1, -1, 1, 1).to(like), std.to(like)


def _by_turn(references: Sequence[Sequence[Tensor]], latent: Tensor) -> list[Tensor]:
    """The first reference of every row as one tensor, the second of every row, and so on."""
    return [torch.stack(column).to(latent) for column in zip(*references, strict=True)]
