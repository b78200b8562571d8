"""Qwen-Image as a velocity model."""

from __future__ import annotations

from typing import Any, ClassVar, cast, final

import torch
from diffusers import QwenImagePipeline
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import guide
from diffopd.model.latents import pack, unpack
from diffopd.model.packed import PackedModel
from diffopd.types import Conditioning


@final
class QwenImageModel(PackedModel):
    """Qwen-Image: Qwen2.5-VL tokens, as many as the prompt has, and guidance that keeps each token's norm.

    ``guidance_scale`` is the stock pipeline's ``true_cfg_scale`` with the negative prompt ``" "``.
    """

    kind: ClassVar[Any] = QwenImagePipeline
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_lengths: ClassVar[tuple[int, int]] = (1, 1024)
    identity_components: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "transformer", "vae")
    empty_prompt: ClassVar[str] = " "
    frames: ClassVar[bool] = True

    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """The tokens of each prompt without its template; shorter ones are filled up."""
        embeds, mask = cast(Any, self.pipeline).encode_prompt(
            prompt=texts, device=self.device, max_sequence_length=self.text_length
        )
        batch, tokens, _ = embeds.shape
        lengths = (tokens,) * batch if mask is None else tuple(mask.sum(1).tolist())
        return Conditioning(embeds, lengths=lengths)

    def predict(self, latent: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Where prompts differ in length, a mask says which tokens count."""
        assert conditioning.lengths is not None
        batch, _, height, width = latent.shape
        embeds, mask = conditioning.embeds.to(latent.dtype), None
        if min(conditioning.lengths) < embeds.shape[1]:
            within = torch.arange(embeds.shape[1]) < torch.tensor(conditioning.lengths)[:, None]
            mask = within.to(latent.device, non_blocking=True)
        tokens = self.transformer(
            hidden_states=pack(latent),
            timestep=sigma,
            guidance=None,
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def guide(
        self,
        unconditional: Float[Tensor, " batch channel height width"],
        conditional: Float[Tensor, " batch channel height width"],
        scale: int | float | Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch channel height width"]:
        """Guidance that keeps each token at the norm of its conditional side, as the stock pipeline does."""
        _, _, height, width = conditional.shape
        guided = pack(guide(unconditional, conditional, scale))
        norms = (torch.linalg.vector_norm(side, dim=-1, keepdim=True) for side in (pack(conditional), guided))
        wanted, found = norms
        return unpack(guided * (wanted / found), height, width)

    def to_vae(self, latents: Tensor) -> Tensor:
        """Normalization undone; one frame."""
        mean, std = self._statistics(latents)
        return (latents * std + mean)[:, :, None]

    def from_vae(self, raw: Tensor) -> Tensor:
        """The one frame, normalized."""
        latents = raw[:, :, 0]
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel."""
        config = self.vae_config
        values = (config.latents_mean, config.latents_std)
        mean, std = (torch.tensor(column).view(1, -1, 1, 1).to(like) for column in values)
        return mean, std
