"""What every family of pipelines shares: loading, freezing, adapters per row, encoding, decoding."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import SigmaGrid
from diffopd.model.adapter_rows import AdapterRouter, Route, parts_of
from diffopd.model.attention import choose_attention_backend
from diffopd.model.backbones import Backbones, answered_by_backbones
from diffopd.model.fused_blocks import AUTO, PRECISIONS_OF_PRODUCTS, FusedBlocks, fusable, multiplies_bf16
from diffopd.model.guidance import check_guidance
from diffopd.model.half_gradient import HalfGradient
from diffopd.model.identity import pipeline_identity
from diffopd.model.image_size import check_image_size
from diffopd.model.loading import load_pipeline, whole_pipeline
from diffopd.model.picture_coding import PictureCoding
from diffopd.model.prompt_encoding import PromptEncoding
from diffopd.model.reference_shapes import one_shape_at_a_time
from diffopd.types import Conditioning
from diffopd.types.precision import parse_dtype
from diffopd.types.size import ImageSize, Size, height_and_width
from diffopd.weights.finite import check_finite


class PipelineModel(PromptEncoding, PictureCoding, ABC):
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
        reads_pictures: Whether the family can be shown reference pictures.
        empty_prompt: What the family is guided away from.
        transformer: The backbone, where adapters go.
        pipeline: The stock pipeline over the same modules.
        backbones: Whole transformers beside ``transformer``, for teachers that are no adapters.
        shift: Shift of the sigma grid, or the grid's rule.
        guidance_scale: Guidance at which the base model is used.
        step_distilled: True if the model is guidance-distilled and takes no scale other than 1.
        embedded_guidance: Guidance scale that the backbone takes as an input, or None.
        lora_modules: Ends of the names of the layers that adapters of this family go to.
        text_length: Longest prompt in tokens; a sampler elsewhere needs the same ``max_sequence_length``.
        size: Height and width in pixels of the pictures it draws, where nothing else is said.
        vision_tower: The vision-language model that pictures are seen with, or None.
        prompt_cache: Encoded prompts on disk, or None.
        num_forwards: Rows whose velocity was computed so far; a guided row is two.
    """

    kind: ClassVar[type[DiffusionPipeline]]
    encoders: ClassVar[tuple[str, ...]]
    text_lengths: ClassVar[tuple[int, int]]
    identity_components: ClassVar[tuple[str, ...]]
    reads_pictures: ClassVar[bool] = False

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        image_size: ImageSize,
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
        decode_batch_size: int | None = None,  # these are not in the configs that earlier runs saved
        fused_blocks: str | None = None,
        vision_tower: str | None = None,
    ) -> None:
        """Load the pipeline and freeze it.

        Args:
            path: A folder, ``package://...`` or a hub id.
            revision: Branch, tag or commit on the hub.
            image_size: Height and width in pixels; one number for a square.
            text_length: Longest prompt in tokens.
            shift: What samplers lay their sigma grid out by; checked against the pipeline's scheduler.
            guidance_scale: Guidance at which the base model is used; >= 1, 1 = CFG off.
            embedded_guidance: Guidance scale for a backbone that takes it as an input; None for others.
            step_distilled: The model is guidance-distilled: a scale other than 1 is an error.
            lora_modules: Ends of the names of the layers that adapters go to.
            dtype: Precision of the backbone: fp32, bf16 or fp16.
            text_dtype: Precision of the text encoders.
            vae_dtype: Precision of the autoencoder.
            gradient_checkpointing: Recompute each block in the backward pass to save memory.
            attention_backend: One of diffusers' attention backends; None = its default.
            compile: Compile the backbone's repeated blocks at their first call.
            vae_tiling: Decode large pictures in tiles.
            offload_text_encoders: Keep the text encoders on the CPU except while they encode.
            prompt_cache: Folder of encoded prompts; also offloads the text encoders. None = none.
            decode_batch_size: Most pictures in the autoencoder at once; None = all that are asked for.
            vision_tower: A vision-language model to see reference pictures with, for a family whose text
                encoder is its language model; loaded when the first is seen. None for others.
            fused_blocks: ``fp32`` or ``bf16``: rounds of training compute Stable Diffusion 3 blocks on a
                CPU by :class:`~diffopd.model.fused_block.FusedBlock`; ``auto`` = ``bf16`` or ``fp32``, by
                the processor, where that can be; None = all is as in diffusers.

        Raises:
            ValueError: If the pipeline is absent or damaged, or these settings do not fit it.
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
        self.pipeline, self._components = load_pipeline(
            path,
            kind=self.kind,
            revision=revision,
            dtypes=dtypes,
            without=self.left_out(text_length),
        )
        self.path, self.size, self.text_length = path, height_and_width(image_size), text_length
        self.decode_batch_size = decode_batch_size
        self._kept = {}
        self.vision_tower = vision_tower
        self.offload_text_encoders = offload_text_encoders or prompt_cache is not None
        self.transformer: Any = self.pipeline.transformer
        self.vae = self.pipeline.vae
        self._hold_encoders()
        self.requires_grad_(False)
        self.eval()

        self.shift, self.guidance_scale = shift, float(guidance_scale)
        self.embedded_guidance, self.step_distilled = embedded_guidance, step_distilled
        self.lora_modules = tuple(lora_modules)
        check_guidance(
            self.transformer,
            path,
            guidance_scale=self.guidance_scale,
            embedded_guidance=embedded_guidance,
            step_distilled=step_distilled,
        )
        self.check_size(self.size)
        self.check_settings()
        for name, setting in (("transformer", "model.dtype"), ("vae", "model.vae_dtype")):
            check_finite(getattr(self, name), self._components[name].where, setting=setting)
        self._open_cache(prompt_cache, text_dtype)
        self._router = AdapterRouter(self.transformer)
        self._identity: str | None = None
        in_fp16 = self.precision == torch.float16
        self._half_gradient = HalfGradient(self.transformer) if in_fp16 else None
        self.backbones = Backbones()
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing(self._router.checkpoint)
        if attention_backend is not None:
            choose_attention_backend(self.transformer, attention_backend)
        if vae_tiling:
            self.vae.enable_tiling()
        self._fused = self._fused_blocks(fused_blocks, compile)
        self._in_round = False
        self.num_forwards = 0
        if compile:
            self.compile_blocks()

    # What a family answers.

    @classmethod
    def left_out(cls, text_length: int) -> tuple[str, ...]:
        """Components that a prompt length makes superfluous; they are not loaded."""
        return ()

    def open_pictures(self) -> None:
        """Get ready to read reference pictures, and load what that takes.

        Raises:
            ValueError: If the family reads none, or what it takes cannot be loaded.
        """
        raise ValueError(self.no_pictures())

    @abstractmethod
    def latent_shape_at(self, size: Size) -> tuple[int, ...]:
        """Shape of one latent of a picture of some size: channels, then axes such as height and width."""

    @property
    @abstractmethod
    def cell(self) -> int:
        """Side of the smallest picture in pixels; heights and widths are multiples of it."""

    @property
    def largest_side(self) -> int | None:
        """Longest height or width in pixels; None = no limit."""
        return None

    @abstractmethod
    def check_settings(self) -> None:
        """Compare the sigma grid, and what else there is, with the pipeline; the picture size fits already.

        Raises:
            ValueError: If they do not fit.
        """

    @abstractmethod
    def predict(
        self,
        latent: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        conditioning: Conditioning,
    ) -> Float[Tensor, " batch *latent"]:
        """The backbone's velocity; ``latent`` is in the backbone's precision, ``sigma`` in fp32."""

    # What follows for all.

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent of the pictures it draws."""
        return self.latent_shape_at(self.size)

    @property
    def image_size(self) -> int | Size:
        """``size`` as a config has it: one number for a square."""
        return self.size[0] if self.size[0] == self.size[1] else self.size

    def check_size(self, size: Size, setting: str = "model.image_size") -> None:
        """Refuse a picture size that the pipeline cannot make or read.

        Args:
            size: Height and width in pixels.
            setting: Where it comes from, for the message.

        Raises:
            ValueError: If it does not fit.
        """
        check_image_size(size, self.path, cell=self.cell, largest=self.largest_side, setting=setting)

    def train(self, mode: bool = True) -> PipelineModel:
        """Stay in evaluation mode: T5 has dropout, and encodings must not depend on the phase."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.transformer.parameters()).device

    @property
    def precision(self) -> torch.dtype:
        """The backbone's precision; adapters are in fp32 whatever it is.

        Its first parameter is asked. diffusers' ``dtype`` and ``device`` look through every module for hooks
        that nothing here sets, in each call: 9 ms each for SD3.5 Medium with four adapters.
        """
        return next(self.transformer.parameters()).dtype

    @property
    def identity(self) -> str:
        """SHA-256 of the base model's configs and weights; adapters record the base they belong to."""
        if self._identity is None:
            self._identity = pipeline_identity(self._components, self.identity_components)
        return self._identity

    @classmethod
    def identity_at(cls, path: str, revision: str | None, text_length: int) -> str:
        """The identity that the model at ``path`` would have; no weights are loaded.

        Args:
            path: A folder, ``package://...`` or a hub id.
            revision: Branch, tag or commit on the hub.
            text_length: Longest prompt in tokens.

        Raises:
            ValueError: If there is no such pipeline, or it is damaged.
        """
        _, components = whole_pipeline(
            path, kind=cls.kind, revision=revision, without=cls.left_out(text_length)
        )
        return pipeline_identity(components, cls.identity_components)

    @answered_by_backbones
    @one_shape_at_a_time
    def velocity(
        self,
        latent: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        conditioning: Conditioning,
        adapters: str | Sequence[str] | None = None,
    ) -> Float[Tensor, " batch *latent"]:
        """Velocity d latent / d sigma.

        Args:
            latent: Noisy states.
            sigma: Their noise, in [0, 1].
            conditioning: One row per state.
            adapters: One adapter for all rows, one per row (``"__base__"`` = none), or None for the backbone.
                A name of ``backbones`` stands for that whole transformer, and one made by
                :func:`~diffopd.model.adapter_rows.together` for several adapters at once.

        Returns:
            Velocities in fp32.
        """
        self.num_forwards += latent.shape[0]
        route = Route.plan(adapters, latent.shape[0])
        states, sigmas = route.arrange(latent, sigma)
        given = conditioning if route.order is None else conditioning.select(route.order)
        with self._router.route(route), self._blocks(route):
            output = self.predict(states.to(self.precision), sigmas, given)
        velocity = route.restore(output).float()
        return velocity if self._half_gradient is None else self._half_gradient.scaled(velocity)

    @contextlib.contextmanager
    def in_round(self) -> Iterator[None]:
        """Within this block velocities may differ by rounding, as ``fused_blocks`` says.

        Outside, where students are sampled, evaluated and compared with stock pipelines, they never do.
        """
        before, self._in_round = self._in_round, True
        try:
            yield
        finally:
            self._in_round = before

    def _blocks(self, route: Route) -> contextlib.AbstractContextManager[None]:
        several = any(len(parts_of(name)) > 1 for name, _ in route.runs)  # which fused blocks know nothing of
        if self._fused is None or not self._in_round or several:
            return contextlib.nullcontext()
        return self._fused.active(self.transformer, route.runs)

    def _fused_blocks(self, precision: str | None, compiled: bool) -> FusedBlocks | None:
        if precision is None:
            return None
        if precision not in (AUTO, *PRECISIONS_OF_PRODUCTS):
            raise ValueError(
                f"model.fused_blocks={precision} is not known; choose one of "
                f"{', '.join((AUTO, *PRECISIONS_OF_PRODUCTS))}, or null"
            )
        some = any(fusable(block) for block in getattr(self.transformer, "transformer_blocks", ()))
        if precision == AUTO:
            return FusedBlocks(half=multiplies_bf16()) if some and not compiled else None
        if compiled:
            raise ValueError(
                f"model.fused_blocks={precision} and model.compile=true are two ways for the same blocks; "
                "set one to null or false"
            )
        if not some:
            raise ValueError(
                f"model.fused_blocks={precision}, but no block of {type(self.transformer).__name__} can be: "
                "they must be Stable Diffusion 3's in fp32, with norms of query and key and one attention; "
                "set model.fused_blocks=null"
            )
        return FusedBlocks(half=precision == "bf16")

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
