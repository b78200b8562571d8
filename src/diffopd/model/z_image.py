"""Z-Image as a velocity model."""

from __future__ import annotations

from typing import Any, ClassVar, cast, final

import torch
from diffusers import ZImagePipeline
from torch import Tensor, nn

from diffopd.model.image_size import check_image_size
from diffopd.model.latents import scaled_from_vae, scaled_to_vae
from diffopd.model.library_grid import check_grid, resolution_mu
from diffopd.model.pipeline_model import PipelineModel
from diffopd.types import Conditioning


@final
class ZImageModel(PipelineModel):
    """Z-Image and Z-Image-Turbo: language-model tokens, as many as the prompt has.

    Its stock pipeline writes guidance as ``cond + scale * (cond - uncond)``: what is 5 here is 4 there. Turbo
    is distilled to few steps without guidance (``step_distilled``).
    """

    kind: ClassVar[Any] = ZImagePipeline
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_lengths: ClassVar[tuple[int, int]] = (1, 512)
    identity_components: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "transformer", "vae")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        side = self.image_size // self.pipeline.vae_scale_factor
        return (self.transformer.config.in_channels, side, side)

    def check_settings(self) -> None:
        """A token is 2 x 2 cells, and the position embedding has room for so many."""
        cell = 2 * self.pipeline.vae_scale_factor
        check_image_size(
            self.image_size, self.path, cell=cell, largest=cell * min(self.transformer.config.axes_lens[1:])
        )
        scheduler, (_, height, width) = self.pipeline.scheduler, self.latent_shape
        mu = resolution_mu(scheduler, height * width // 4)
        check_grid(self.shift, scheduler, lambda num_steps: mu, self.path)

    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """The tokens of each prompt; shorter ones are filled up."""
        # The stock pipeline writes into the list it is given.
        embeds, _ = cast(Any, self.pipeline).encode_prompt(
            prompt=list(texts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
        )
        filled = nn.utils.rnn.pad_sequence(embeds, batch_first=True)
        return Conditioning(filled, lengths=tuple(len(row) for row in embeds))

    def predict(self, latent: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The backbone takes lists; its time is ``1 - sigma`` and its output the negative velocity."""
        assert conditioning.lengths is not None
        embeds = conditioning.embeds.to(latent.dtype)
        outputs = self.transformer(
            list(latent[:, :, None].unbind()),
            1 - sigma,
            [row[:length] for row, length in zip(embeds, conditioning.lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(outputs)[:, :, 0]

    def to_vae(self, latents: Tensor) -> Tensor:
        """Scale and shift undone."""
        return scaled_to_vae(latents, self.vae_config)

    def from_vae(self, raw: Tensor) -> Tensor:
        """Shifted and scaled."""
        return scaled_from_vae(raw, self.vae_config)
