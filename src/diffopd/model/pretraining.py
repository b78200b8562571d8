"""What training from nothing asks of a pipeline; one class for each family that is trained so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, final

import torch
from diffusers import Flux2KleinPipeline, StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor, nn

from diffopd.model.flux2_tokens import flux2_velocity

Latent = Float[Tensor, " batch channels height width"]
Pictures = Float[Tensor, " batch 3 height width"]
"""In [-1, 1]."""


class Pretraining(Protocol):
    """A pipeline as the phases see it that train all of it.

    Attributes:
        pipeline: The stock pipeline.
        trained: Its parts that learn with the backbone.
        blocks: The backbone's blocks, to compile.
        takes_references: Whether :meth:`velocity` reads reference pictures.
    """

    pipeline: Any
    trained: dict[str, nn.Module]
    blocks: list[nn.Module]
    takes_references: bool

    def encode(self, pictures: Pictures) -> Latent:
        """Latents as the backbone has them: the posterior's mean, normalized."""
        ...

    def measure(self, pictures: Pictures) -> None:
        """Write into the autoencoder what normalizes its latents: mean and deviation over these pictures."""
        ...

    def velocity(
        self, latent: Latent, sigma: Float[Tensor, " batch"], texts: Sequence[str], references: Latent | None
    ) -> Latent:
        """The backbone's velocity, given prompts and at most one reference picture a row."""
        ...


def pretraining(pipeline: Any, text_length: int) -> Pretraining:
    """The view of a pipeline of any family that can be trained from nothing.

    Args:
        pipeline: A stock pipeline in fp32.
        text_length: Tokens of a prompt; of Stable Diffusion 3, tokens of the T5 slot.
    """
    if isinstance(pipeline, Flux2KleinPipeline):
        return KleinPretraining(pipeline, text_length)
    return SD3Pretraining(pipeline, text_length)


@final
class SD3Pretraining:
    """Stable Diffusion 3, both CLIP encoders included."""

    takes_references = False

    def __init__(self, pipeline: StableDiffusion3Pipeline, text_length: int) -> None:
        self.pipeline, self.text_length = pipeline, text_length
        self.trained: dict[str, nn.Module] = {
            "transformer": pipeline.transformer,
            "text_encoder": pipeline.text_encoder,
            "text_encoder_2": pipeline.text_encoder_2,
        }
        self.blocks: list[nn.Module] = list(cast(Any, pipeline.transformer).transformer_blocks)

    def encode(self, pictures: Pictures) -> Latent:
        """The mean, shifted and scaled."""
        vae = cast(Any, self.pipeline.vae)
        latents = vae.encode(pictures).latent_dist.mean.float()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def measure(self, pictures: Pictures) -> None:
        """One mean and one deviation of all channels."""
        vae = cast(Any, self.pipeline.vae)
        latents = vae.encode(pictures).latent_dist.mean
        vae.register_to_config(
            scaling_factor=round(1 / float(latents.std()), 4), shift_factor=round(float(latents.mean()), 4)
        )

    def velocity(
        self, latent: Latent, sigma: Tensor, texts: Sequence[str], references: Latent | None
    ) -> Latent:
        """As in the stock pipeline; gradients reach the text encoders."""
        prompts = list(texts)
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            prompts,
            prompts,
            do_classifier_free_guidance=False,
            device=latent.device,  # pyright: ignore[reportArgumentType]
            max_sequence_length=self.text_length,
        )
        return cast(Any, self.pipeline.transformer)(
            hidden_states=latent,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=1000 * sigma,
            return_dict=False,
        )[0]


@final
class KleinPretraining:
    """FLUX.2 [klein]: the transformer learns; the text encoder stays as it is and reads each prompt once."""

    takes_references = True

    def __init__(self, pipeline: Flux2KleinPipeline, text_length: int) -> None:
        self.pipeline, self.text_length = pipeline, text_length
        backbone = cast(Any, pipeline.transformer)
        self.trained: dict[str, nn.Module] = {"transformer": backbone}
        self.blocks: list[nn.Module] = [*backbone.transformer_blocks, *backbone.single_transformer_blocks]
        self._prompts: dict[str, Tensor] = {}

    def encode(self, pictures: Pictures) -> Latent:
        """The mean in patches, each channel normalized by the autoencoder's statistics, as references are."""
        with torch.no_grad():
            return self.pipeline._encode_vae_image(pictures, cast(Any, None)).float()

    def measure(self, pictures: Pictures) -> None:
        """One mean and one variance for each channel of a patch."""
        vae = cast(Any, self.pipeline.vae)
        patches = self.pipeline._patchify_latents(vae.encode(pictures).latent_dist.mean)
        vae.bn.running_mean.copy_(patches.mean((0, 2, 3)))
        vae.bn.running_var.copy_(patches.var((0, 2, 3)))

    def velocity(
        self, latent: Latent, sigma: Tensor, texts: Sequence[str], references: Latent | None
    ) -> Latent:
        """As in the stock pipeline: the reference's tokens follow the target's."""
        embeds = self._encoded(texts).to(latent.device)
        shown = [] if references is None else [references]
        return flux2_velocity(self.pipeline.transformer, latent, sigma, embeds, shown)

    @torch.no_grad()
    def _encoded(self, texts: Sequence[str]) -> Tensor:
        device = next(self.pipeline.text_encoder.parameters()).device
        with torch.autocast(device.type, enabled=False):  # prompts are the same whatever precision trains
            if new := sorted(set(texts) - self._prompts.keys()):
                embeds, _ = self.pipeline.encode_prompt(
                    prompt=new, device=device, max_sequence_length=self.text_length
                )
                self._prompts.update(zip(new, embeds.half().cpu(), strict=True))
            return torch.stack([self._prompts[text] for text in texts]).float()
