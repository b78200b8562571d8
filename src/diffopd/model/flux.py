"""FLUX.1 as a velocity model."""

from __future__ import annotations

from typing import Any, ClassVar, cast, final

import torch
from diffusers import FluxPipeline
from torch import Tensor

from diffopd.model.latents import pack, scaled_from_vae, scaled_to_vae, unpack
from diffopd.model.packed import PackedModel
from diffopd.types import Conditioning


@final
class FluxModel(PackedModel):
    """FLUX.1: T5 tokens and a CLIP vector; [dev] takes its guidance as an input, ``embedded_guidance``.

    Classifier-free guidance on top of it is possible, as ``true_cfg_scale`` in the stock pipeline, and off by
    default.
    """

    kind: ClassVar[Any] = FluxPipeline
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    text_lengths: ClassVar[tuple[int, int]] = (1, 512)
    identity_components: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "transformer", "vae")

    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """T5 tokens, and the pooled CLIP vector."""
        embeds, pooled, _ = cast(Any, self.pipeline).encode_prompt(
            prompt=texts, prompt_2=None, device=self.device, max_sequence_length=self.text_length
        )
        return Conditioning(embeds, pooled)

    def predict(self, latent: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Image tokens carry their place in the picture, text tokens have none."""
        assert conditioning.pooled is not None
        batch, _, height, width = latent.shape
        guidance = None
        if self.embedded_guidance is not None:
            guidance = torch.full((batch,), self.embedded_guidance, dtype=torch.float32, device=latent.device)
        tokens = self.transformer(
            hidden_states=pack(latent),
            timestep=sigma,
            guidance=guidance,
            pooled_projections=conditioning.pooled.to(latent.dtype),
            encoder_hidden_states=conditioning.embeds.to(latent.dtype),
            txt_ids=torch.zeros(conditioning.embeds.shape[1], 3, device=latent.device),
            img_ids=_places(height // 2, width // 2, latent.device),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def to_vae(self, latents: Tensor) -> Tensor:
        """Scale and shift undone."""
        return scaled_to_vae(latents, self.vae_config)

    def from_vae(self, raw: Tensor) -> Tensor:
        """Shifted and scaled."""
        return scaled_from_vae(raw, self.vae_config)


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """``(0, row, column)`` of each token."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    places = torch.cartesian_prod(torch.zeros(1, dtype=rows.dtype, device=device), rows, columns)
    return places.float()
