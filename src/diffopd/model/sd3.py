"""Stable Diffusion 3, of any size, as a velocity model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffopd.model.backbones import Backbones, answered_by_backbones
from diffopd.model.loading import load_pipeline, parse_dtype, pipeline_identity
from diffopd.model.routing import AdapterRouter, Route
from diffopd.types import Conditioning


class SD3Model(nn.Module):
    """A Stable Diffusion 3 pipeline that answers every phase's questions.

    All of its own weights are frozen; adapters are added to ``transformer``, and each call of
    :meth:`velocity` says which of them it uses. Kept between calls: the encoding of the empty prompt and
    the identity.

    Attributes:
        transformer: The backbone, where adapters go.
        vae: The autoencoder.
        text_encoder: The first CLIP text encoder.
        text_encoder_2: The second.
        text_encoder_3: T5, or None.
        pipeline: The stock pipeline over the same modules.
        backbones: Whole transformers beside ``transformer``, for teachers that are no adapters.
        shift: Timestep shift of the scheduler.
        guidance_scale: Guidance at which the base model is used.
        text_length: Tokens of the T5 slot; a sampler elsewhere needs the same ``max_sequence_length``.
        image_size: Height and width in pixels.
    """

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        image_size: int,
        text_length: int,
        shift: int | float,
        guidance_scale: int | float,
        dtype: str,
        text_dtype: str,
        vae_dtype: str,
        gradient_checkpointing: bool,
    ) -> None:
        """Load the pipeline and freeze it.

        Args:
            path: A folder, ``package://...`` or a hub id.
            revision: Branch, tag or commit on the hub.
            image_size: Height and width in pixels.
            text_length: Tokens of the T5 slot, 0 to 512. With 0, T5 is not even loaded.
            shift: The scheduler's shift, which samplers read from the config; checked.
            guidance_scale: Guidance at which the base model is used; >= 1, 1 = none.
            dtype: Precision of the backbone: fp32, bf16 or fp16.
            text_dtype: Precision of the text encoders.
            vae_dtype: Precision of the autoencoder.
            gradient_checkpointing: Recompute each block in the backward pass to save memory.

        Raises:
            ValueError: If the pipeline is absent or these settings do not fit it.
        """
        super().__init__()
        if not 0 <= text_length <= 512:
            raise ValueError(
                f"model.text_length={text_length} is out of range; the pipeline takes 0 to 512 tokens"
            )
        dtypes = {
            "transformer": parse_dtype(dtype, "model.dtype"),
            "vae": parse_dtype(vae_dtype, "model.vae_dtype"),
            "default": parse_dtype(text_dtype, "model.text_dtype"),
        }
        without = () if text_length else ("text_encoder_3", "tokenizer_3")
        self.pipeline, self._folder = load_pipeline(path, revision=revision, dtypes=dtypes, without=without)
        self.transformer = self.pipeline.transformer
        self.vae = self.pipeline.vae
        self.text_encoder = self.pipeline.text_encoder
        self.text_encoder_2 = self.pipeline.text_encoder_2
        self.text_encoder_3 = self.pipeline.text_encoder_3
        self.requires_grad_(False)
        self.eval()

        self.path, self.image_size, self.text_length = path, image_size, text_length
        self.shift, self.guidance_scale = float(shift), float(guidance_scale)
        self._check_settings()
        self._clock = float(self.pipeline.scheduler.config.num_train_timesteps)
        self._router = AdapterRouter(self.transformer)
        self.backbones = Backbones()
        self._empty: Conditioning | None = None
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing(self._router.checkpoint)

    def train(self, mode: bool = True) -> SD3Model:
        """Stay in evaluation mode: T5 has dropout, and encodings must not depend on the phase."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.transformer.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        side = self.image_size // self.pipeline.vae_scale_factor
        return (self.transformer.config.in_channels, side, side)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the base model's configs and weights; adapters record the base they belong to."""
        return pipeline_identity(self._folder)

    def encode(self, texts: Sequence[str], *, grad: bool = False) -> Conditioning:
        """Encode prompts exactly as the stock pipeline does; each different text once.

        Args:
            texts: The prompts; ``""`` is the empty prompt.
            grad: Let gradients reach the text encoders.
        """
        unique = list(dict.fromkeys(texts))
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            embeds, _, pooled, _ = cast(Any, self.pipeline).encode_prompt(
                prompt=unique,
                prompt_2=None,
                prompt_3=None,
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.text_length,
            )
            conditioning = Conditioning(embeds, pooled)
            if len(unique) == len(texts):
                return conditioning
            row = {text: place for place, text in enumerate(unique)}
            return conditioning.select([row[text] for text in texts])

    def unconditional(self) -> Conditioning:
        """The encoding of the empty prompt, one row, computed once.

        Whoever trains the text encoders asks ``encode([""])`` instead.
        """
        if self._empty is None:
            self._empty = self.encode([""])
        device = self.device
        return Conditioning(self._empty.embeds.to(device), self._empty.pooled.to(device))

    @answered_by_backbones
    def velocity(
        self,
        latent: Float[Tensor, " batch channel height width"],
        sigma: Float[Tensor, " batch"],
        conditioning: Conditioning,
        adapters: str | Sequence[str] | None = None,
    ) -> Float[Tensor, " batch channel height width"]:
        """Velocity d latent / d sigma.

        Args:
            latent: Noisy states.
            sigma: Their noise, in [0, 1].
            conditioning: One row per state.
            adapters: One adapter for all rows, one per row (``"__base__"`` = none), or None for the backbone.
                A name of ``backbones`` stands for that whole transformer.

        Returns:
            Velocities in fp32.
        """
        route = Route.plan(adapters, latent.shape[0])
        dtype = self.transformer.dtype
        states, sigmas, embeds, pooled = route.arrange(
            latent, sigma, conditioning.embeds, conditioning.pooled
        )
        with self._router.route(route):
            output = self.transformer(
                hidden_states=states.to(dtype),
                timestep=self._clock * sigmas,
                encoder_hidden_states=embeds.to(dtype),
                pooled_projections=pooled.to(dtype),
                return_dict=False,
            )[0]
        return route.restore(output).float()

    def decode(
        self, latents: Float[Tensor, " batch channel height width"]
    ) -> Float[Tensor, " batch 3 image_height image_width"]:
        """Images in [0, 1], fp32."""
        config = self._vae_config
        scaled = latents.to(self.vae.dtype) / config.scaling_factor + (config.shift_factor or 0.0)
        images = self.vae.decode(scaled, return_dict=False)[0].float()
        return (images / 2 + 0.5).clamp(0, 1)

    def encode_images(
        self,
        images: Float[Tensor, " batch 3 image_height image_width"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " batch channel height width"]:
        """Latents of images, fp32.

        Args:
            images: In [0, 1].
            generator: Draws from the encoder's distribution; None takes its mode.
        """
        config = self._vae_config
        distribution = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist
        latents = distribution.mode() if generator is None else distribution.sample(generator)
        return (latents.float() - (config.shift_factor or 0.0)) * config.scaling_factor

    @property
    def _vae_config(self) -> Any:
        return cast(Any, self.vae.config)

    def _check_settings(self) -> None:
        scheduler_shift = float(self.pipeline.scheduler.config.shift)
        if not math.isclose(scheduler_shift, self.shift):
            raise ValueError(
                f"model.shift={self.shift} but the scheduler of {self.path} has shift {scheduler_shift}; "
                f"set model.shift={scheduler_shift}"
            )
        patch = self.transformer.config.patch_size
        cell = self.pipeline.vae_scale_factor * patch
        largest = cell * self.transformer.config.pos_embed_max_size
        if self.image_size % cell or not cell <= self.image_size <= largest:
            raise ValueError(
                f"model.image_size={self.image_size} does not fit {self.path}; allowed are multiples of "
                f"{cell} pixels up to {largest}"
            )
