"""Stable Diffusion 3, of any size, as a velocity model."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, ClassVar, cast, final

from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from diffopd.flow import SigmaGrid
from diffopd.host.rank import is_first_process
from diffopd.model.latents import scaled_from_vae, scaled_to_vae
from diffopd.model.pipeline_model import PipelineModel
from diffopd.types import Conditioning
from diffopd.types.size import Size

log = logging.getLogger(__name__)


@final
class SD3Model(PipelineModel):
    """Stable Diffusion 3 and 3.5: two CLIP encoders, T5 on request, classifier-free guidance.

    ``text_length`` is the length of the T5 slot; with 0, T5 is not even loaded.
    """

    kind: ClassVar[Any] = StableDiffusion3Pipeline
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    text_encoder_3: Any
    text_lengths: ClassVar[tuple[int, int]] = (0, 512)
    identity_components: ClassVar[tuple[str, ...]] = (
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae",
    )

    @classmethod
    def left_out(cls, text_length: int) -> tuple[str, ...]:
        """T5, if its slot is empty."""
        return () if text_length else ("text_encoder_3", "tokenizer_3")

    def latent_shape_at(self, size: Size) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        factor = self.pipeline.vae_scale_factor
        return (self.transformer.config.in_channels, size[0] // factor, size[1] // factor)

    @property
    def cell(self) -> int:
        """A token's side."""
        return self.pipeline.vae_scale_factor * self.transformer.config.patch_size

    @property
    def largest_side(self) -> int:
        """As many tokens as the position embedding has."""
        return self.cell * self.transformer.config.pos_embed_max_size

    def check_settings(self) -> None:
        """Compare the shift with the scheduler's; say if T5 is absent."""
        if self.text_encoder_3 is None and self.text_length and is_first_process():
            log.warning(
                "model.path=%s has no T5 (text_encoder_3), so the %d tokens of model.text_length are zeros: "
                "this is another model than the one with T5 that teachers may have been trained on. Fetch "
                "T5, or set model.text_length=0",
                self.path,
                self.text_length,
            )
        scheduler_shift = float(self.pipeline.scheduler.config.shift)
        if isinstance(self.shift, SigmaGrid) or not math.isclose(scheduler_shift, self.shift):
            given = type(self.shift).__name__ if isinstance(self.shift, SigmaGrid) else float(self.shift)
            raise ValueError(
                f"model.shift={given} but the scheduler of {self.path} has shift {scheduler_shift}; "
                f"set model.shift={scheduler_shift}"
            )

    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """CLIP tokens, T5 tokens after them, and the pooled CLIP vectors."""
        embeds, _, pooled, _ = cast(Any, self.pipeline).encode_prompt(
            prompt=texts,
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=0 if self.text_encoder_3 is None else self.text_length,
        )
        return Conditioning(embeds, pooled)

    def completed(self, conditioning: Conditioning) -> Conditioning:
        """Without T5 the stock pipeline fills its slot with zeros."""
        if self.text_encoder_3 is not None or not self.text_length:
            return conditioning
        zeros = (0, 0, 0, self.text_length)
        return replace(conditioning, embeds=nn.functional.pad(conditioning.embeds, zeros))

    def predict(self, latent: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The backbone's clock runs to the scheduler's number of training steps."""
        assert conditioning.pooled is not None
        return self.transformer(
            hidden_states=latent,
            timestep=float(self.pipeline.scheduler.config.num_train_timesteps) * sigma,
            encoder_hidden_states=conditioning.embeds.to(latent.dtype),
            pooled_projections=conditioning.pooled.to(latent.dtype),
            return_dict=False,
        )[0]

    def to_vae(self, latents: Tensor) -> Tensor:
        """Scale and shift undone."""
        return scaled_to_vae(latents, self.vae_config)

    def from_vae(self, raw: Tensor) -> Tensor:
        """Shifted and scaled."""
        return scaled_from_vae(raw, self.vae_config)
