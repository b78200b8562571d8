"""What every family of pipelines shares: loading, freezing, adapters per row, encoding, decoding."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from diffopd.flow import SigmaGrid
from diffopd.model.backbones import Backbones, answered_by_backbones
from diffopd.model.fit import check_guidance, choose_attention_backend
from diffopd.model.half_gradient import HalfGradient
from diffopd.model.loading import (
    encoding_identity,
    load_pipeline,
    pipeline_folder,
    pipeline_identity,
)
from diffopd.model.prompt_cache import PromptCache
from diffopd.model.routing import AdapterRouter, Route
from diffopd.precision import parse_dtype
from diffopd.types import Conditioning


class PipelineModel(nn.Module, ABC):
    """A diffusers pipeline that answers every phase's questions; a family says how its own is called.

    All of its own weights are frozen; adapters are added to ``transformer``, and each call of
    :meth:`velocity` says which of them it uses. Kept between calls: the encoding of the empty prompt and
    the identity.

    Attributes:
        kind: Class of the pipeline.
        encoders: Names of its text encoders; each is an attribute, None if the pipeline has none.
        text_lengths: Shortest and longest ``text_length``.
        identity_components: Components whose configs and weights make up the base model; T5 is none, as it is
            large, optional and never trained.
        empty_prompt: What the family is guided away from.
        frames: True if the autoencoder works on films; a picture is one of a single frame.
        transformer: The backbone, where adapters go.
        vae: The autoencoder.
        pipeline: The stock pipeline over the same modules.
        backbones: Whole transformers beside ``transformer``, for teachers that are no adapters.
        shift: Shift of the sigma grid, or the grid's rule.
        guidance_scale: Guidance at which the base model is used.
        step_distilled: True if the model has its guidance in its weights and cannot be guided.
        embedded_guidance: Strength of guidance that the backbone takes as an input, or None.
        lora_modules: Ends of the names of the layers that adapters of this family go to.
        text_length: Longest prompt in tokens; a sampler elsewhere needs the same ``max_sequence_length``.
        image_size: Height and width in pixels.
        prompt_cache: Encoded prompts on disk, or None.
    """

    kind: ClassVar[type[DiffusionPipeline]]
    encoders: ClassVar[tuple[str, ...]]
    text_lengths: ClassVar[tuple[int, int]]
    identity_components: ClassVar[tuple[str, ...]]
    empty_prompt: ClassVar[str] = ""
    frames: ClassVar[bool] = False

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        image_size: int,
        text_length: int,
        shift: int | float | SigmaGrid,
        guidance_scale: int | float,
        embedded_guidance: int | float | None,
        step_distilled: bool,
        lora_modules: Sequence[str],
        dtype: str,
        text_dtype: str,
        vae_dtype: str,
        gradient_checkpointing: bool,
        attention_backend: str | None,
        compile: bool,
        vae_tiling: bool,
        offload_text_encoders: bool,
        prompt_cache: str | None,
    ) -> None:
        """Load the pipeline and freeze it.

        Args:
            path: A folder, ``package://...`` or a hub id.
            revision: Branch, tag or commit on the hub.
            image_size: Height and width in pixels.
            text_length: Longest prompt in tokens.
            shift: What samplers lay their sigma grid out by; checked against the pipeline's scheduler.
            guidance_scale: Guidance at which the base model is used; >= 1, 1 = none.
            embedded_guidance: Strength of guidance handed to a backbone that takes one; None for others.
            step_distilled: The model has its guidance in its weights: other guidance is refused.
            lora_modules: Ends of the names of the layers that adapters go to.
            dtype: Precision of the backbone: fp32, bf16 or fp16.
            text_dtype: Precision of the text encoders.
            vae_dtype: Precision of the autoencoder.
            gradient_checkpointing: Recompute each block in the backward pass to save memory.
            attention_backend: One of diffusers' attention backends; None = its default.
            compile: Compile the backbone's repeated blocks at their first call.
            vae_tiling: Decode large pictures in tiles.
            offload_text_encoders: Keep the text encoders on the CPU except while they encode.
            prompt_cache: Folder of encoded prompts; offloads the text encoders, too. None = encode anew.

        Raises:
            ValueError: If the pipeline is absent or these settings do not fit it.
        """
        super().__init__()
        least, most = self.text_lengths
        if not least <= text_length <= most:
            raise ValueError(
                f"model.text_length={text_length} is out of range; the pipeline takes {least} to {most} "
                "tokens"
            )
        dtypes = {
            "transformer": parse_dtype(dtype, "model.dtype"),
            "vae": parse_dtype(vae_dtype, "model.vae_dtype"),
            "default": parse_dtype(text_dtype, "model.text_dtype"),
        }
        self.pipeline, self._folder = load_pipeline(
            path,
            kind=self.kind,
            revision=revision,
            dtypes=dtypes,
            without=self.left_out(text_length),
        )
        self.transformer: Any = self.pipeline.transformer
        self.vae: Any = self.pipeline.vae
        offload_text_encoders = offload_text_encoders or prompt_cache is not None
        for name in self.encoders:
            encoder = getattr(self.pipeline, name)
            if encoder is not None:
                encoder.requires_grad_(False).eval()
            if offload_text_encoders:
                object.__setattr__(self, name, encoder)  # not registered: it stays where it is on .to(device)
            else:
                setattr(self, name, encoder)
        self.requires_grad_(False)
        self.eval()

        self.path, self.image_size, self.text_length = path, image_size, text_length
        self.shift, self.guidance_scale = shift, float(guidance_scale)
        self.embedded_guidance, self.step_distilled = embedded_guidance, step_distilled
        self.lora_modules, self.offload_text_encoders = tuple(lora_modules), offload_text_encoders
        check_guidance(
            self.transformer,
            path,
            guidance_scale=self.guidance_scale,
            embedded_guidance=embedded_guidance,
            step_distilled=step_distilled,
        )
        self.check_settings()
        self._router = AdapterRouter(self.transformer)
        in_fp16 = self.transformer.dtype == torch.float16
        self._half_gradient = HalfGradient(self.transformer) if in_fp16 else None
        self.backbones = Backbones()
        self._empty: Conditioning | None = None
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing(self._router.checkpoint)
        if attention_backend is not None:
            choose_attention_backend(self.transformer, attention_backend)
        if vae_tiling:
            self.vae.enable_tiling()
        if compile:
            self.compile_blocks()
        self.prompt_cache: PromptCache | None = None
        if prompt_cache is not None:
            self.prompt_cache = PromptCache(prompt_cache, self._encoding(text_dtype))

    # What a family answers.

    @classmethod
    def left_out(cls, text_length: int) -> tuple[str, ...]:
        """Components that a prompt length makes superfluous; they are not loaded."""
        return ()

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""

    @abstractmethod
    def check_settings(self) -> None:
        """Compare picture size and sigma grid with the pipeline.

        Raises:
            ValueError: If they do not fit.
        """

    @abstractmethod
    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """Encode prompts exactly as the stock pipeline does, under the caller's grad mode."""

    @abstractmethod
    def predict(
        self,
        latent: Float[Tensor, " batch channel height width"],
        sigma: Float[Tensor, " batch"],
        conditioning: Conditioning,
    ) -> Float[Tensor, " batch channel height width"]:
        """The backbone's velocity; ``latent`` is in the backbone's precision, ``sigma`` in fp32."""

    @abstractmethod
    def to_vae(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder decodes them."""

    @abstractmethod
    def from_vae(self, raw: Tensor) -> Tensor:
        """Latents from what the autoencoder encodes; the inverse of :meth:`to_vae`."""

    # What follows for all.

    def train(self, mode: bool = True) -> PipelineModel:
        """Stay in evaluation mode: T5 has dropout, and encodings must not depend on the phase."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.transformer.device

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the base model's configs and weights; adapters record the base they belong to."""
        return pipeline_identity(self._folder, self.identity_components)

    @classmethod
    def identity_at(cls, path: str, revision: str | None, text_length: int) -> str:
        """The identity that the model at ``path`` would have; no weights are loaded.

        Args:
            path: A folder, ``package://...`` or a hub id.
            revision: Branch, tag or commit on the hub.
            text_length: Longest prompt in tokens.

        Raises:
            ValueError: If there is no such pipeline.
        """
        folder = pipeline_folder(path, revision, cls.left_out(text_length), cls.kind)
        return pipeline_identity(folder, cls.identity_components)

    def encode(self, texts: Sequence[str], *, grad: bool = False) -> Conditioning:
        """Encode prompts exactly as the stock pipeline does; each different text once.

        With a prompt cache, those on disk are read instead, and the others kept there.

        Args:
            texts: The prompts; ``""`` is the empty prompt, whatever the family writes for it.
            grad: Let gradients reach the text encoders, which no cache can.
        """
        given = [text or self.empty_prompt for text in texts]
        unique = list(dict.fromkeys(given))
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            if self.prompt_cache is not None and not grad:
                conditioning = self.prompt_cache.conditioning(unique, self._encode_each).to(self.device)
            else:
                with self._encoders_at_hand():
                    conditioning = self.encode_prompts(unique)
            if len(unique) == len(given):
                return conditioning
            row = {text: place for place, text in enumerate(unique)}
            return conditioning.select([row[text] for text in given])

    def encode_ahead(self, texts: Sequence[str], rank: int, num_processes: int) -> None:
        """Encode this process's share of many prompts, and the empty one, into the prompt cache.

        Args:
            texts: All prompts of a training, the same on all processes.
            rank: Number of this process.
            num_processes: How many there are.
        """
        assert self.prompt_cache is not None
        given = [text or self.empty_prompt for text in ("", *texts)]
        self.prompt_cache.fill(given, self._encode_each, rank=rank, num_processes=num_processes)

    @torch.no_grad()
    def _encode_each(self, texts: Sequence[str]) -> Iterator[Conditioning]:
        """Encode prompts one by one, with one visit of the text encoders to the backbone's device."""
        with self._encoders_at_hand():
            for text in texts:
                yield self.encode_prompts([text]).select([0]).to(torch.device("cpu"))

    def _encoding(self, text_dtype: str) -> dict[str, Any]:
        """What an encoding depends on beside its prompt."""
        present = [name for name in self.encoders if getattr(self, name) is not None]
        return {
            "pipeline": self.kind.__name__,
            "encoders": encoding_identity(self._folder, present),
            "text_length": self.text_length,
            "text_dtype": text_dtype,
            "libraries": {"diffusers": diffusers.__version__, "transformers": transformers.__version__},
        }

    def unconditional(self) -> Conditioning:
        """The encoding of the empty prompt, one row, computed once.

        Whoever trains the text encoders asks ``encode([""])`` instead.
        """
        if self._empty is None:
            self._empty = self.encode([""])
        return self._empty.to(self.device)

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
        states, sigmas = route.arrange(latent, sigma)
        given = conditioning if route.order is None else conditioning.select(route.order)
        with self._router.route(route):
            output = self.predict(states.to(self.transformer.dtype), sigmas, given)
        velocity = route.restore(output).float()
        return velocity if self._half_gradient is None else self._half_gradient.scaled(velocity)

    def decode(
        self, latents: Float[Tensor, " batch channel height width"]
    ) -> Float[Tensor, " batch 3 image_height image_width"]:
        """Images in [0, 1], fp32."""
        images = self.vae.decode(self.to_vae(latents.to(self.vae.dtype)), return_dict=False)[0].float()
        return ((images[:, :, 0] if self.frames else images) / 2 + 0.5).clamp(0, 1)

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
        given = (images * 2 - 1).to(self.vae.dtype)
        distribution = self.vae.encode(given[:, :, None] if self.frames else given).latent_dist
        raw = distribution.mode() if generator is None else distribution.sample(generator)
        return self.from_vae(raw.float())

    def compile_blocks(self, **options: Any) -> None:
        """Have each repeated block of the backbone compiled at its first call.

        Which adapter a row uses is then an input of the compiled code, so no choice of adapters compiles
        again.

        Args:
            options: For ``torch.compile``.
        """
        names = getattr(self.transformer, "_repeated_blocks", None) or self.transformer._no_split_modules
        for module in self.transformer.modules():
            if type(module).__name__ in names:
                module.compile(**options)
        self._router.side_by_side = True

    @property
    def vae_config(self) -> Any:
        """The autoencoder's settings."""
        return cast(Any, self.vae.config)

    @contextlib.contextmanager
    def _encoders_at_hand(self) -> Iterator[None]:
        """Text encoders on the backbone's device; offloaded ones leave it again."""
        moved = [getattr(self, name) for name in self.encoders] if self.offload_text_encoders else []
        for encoder in filter(None, moved):
            encoder.to(self.device)
        try:
            yield
        finally:
            for encoder in filter(None, moved):
                encoder.to("cpu")
