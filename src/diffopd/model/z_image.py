"""Z-Image as a velocity model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast, final

import torch
from diffusers import ZImagePipeline
from torch import Tensor, nn

from diffopd.model.latents import scaled_from_vae, scaled_to_vae
from diffopd.model.library_grid import check_grid, resolution_mu
from diffopd.model.pipeline_model import PipelineModel
from diffopd.model.vision_tower import VisionTower
from diffopd.types import Conditioning, Picture, Prompts
from diffopd.types.size import Size

Told = tuple[str, tuple[Picture, ...]]
"""A prompt's text, and the pictures before it."""


@final
class ZImageModel(PipelineModel):
    """Z-Image and Z-Image-Turbo: language-model tokens, as many as the prompt has.

    Its stock pipeline writes guidance as ``cond + scale * (cond - uncond)``: what is 5 here is 4 there. Turbo
    is distilled to few steps without guidance (``step_distilled``). Pictures are seen through a vision tower
    that is joined to the language model; what the backbone gets of them is a longer prompt.
    """

    kind: ClassVar[Any] = ZImagePipeline
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_lengths: ClassVar[tuple[int, int]] = (1, 512)
    reads_pictures: ClassVar[bool] = True
    identity_components: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "transformer", "vae")

    def latent_shape_at(self, size: Size) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        factor = self.pipeline.vae_scale_factor
        return (self.transformer.config.in_channels, size[0] // factor, size[1] // factor)

    @property
    def cell(self) -> int:
        """A token is 2 x 2 cells of the autoencoder."""
        return 2 * self.pipeline.vae_scale_factor

    @property
    def largest_side(self) -> int:
        """As many tokens as the position embedding has room for."""
        return self.cell * min(self.transformer.config.axes_lens[1:])

    def check_settings(self) -> None:
        """The grid moves as the scheduler says."""
        scheduler, (_, height, width) = self.pipeline.scheduler, self.latent_shape_at(self.size)
        mu = resolution_mu(scheduler, height * width // 4)
        check_grid(self.shift, scheduler, lambda num_steps: mu, self.path)

    def open_pictures(self) -> None:
        """Load the vision tower, once.

        Raises:
            ValueError: If none is named, or it does not fit the text encoder.
        """
        self._opened_tower()

    def _opened_tower(self) -> VisionTower:
        """The vision tower, loaded at the first call; no registered part, as it moves when it is used."""
        tower = self.__dict__.get("_tower")
        if tower is None:
            if self.vision_tower is None:
                raise ValueError(
                    "model.vision_tower=null, and pictures are to be seen; name the folder or hub id of the "
                    "vision-language model of the text encoder's size, as in Qwen/Qwen3-VL-4B-Instruct"
                )
            tower = VisionTower(self.vision_tower, self.pipeline.text_encoder)
            object.__setattr__(self, "_tower", tower)
        return tower

    def condition(self, prompts: Prompts) -> Conditioning:
        """Encode texts, and texts with pictures by the vision-language model.

        With a prompt cache, those on disk are read instead, and the others kept there: by text, pictures and
        vision tower.

        Raises:
            ValueError: If there are pictures and no vision tower, or one cannot be seen.
        """
        if not any(prompts.references):
            return self.encode(prompts.texts)
        tower = self._opened_tower()
        rows = [
            (text or self.empty_prompt, shown)
            for text, shown in zip(prompts.texts, prompts.references, strict=True)
        ]
        told = {_key(row, tower): row for row in rows}
        if self.prompt_cache is not None:
            encoded = self.prompt_cache.conditioning(list(told), lambda keys: self._encode_told(told, keys))
        else:
            encoded = Conditioning.concat(list(self._encode_told(told, list(told))))
        place = {key: number for number, key in enumerate(told)}
        return encoded.to(self.device).select([place[_key(row, tower)] for row in rows])

    @torch.no_grad()
    def _encode_told(self, told: Mapping[str, Told], keys: Sequence[str]) -> Iterator[Conditioning]:
        """Encode rows one by one, with one visit of the encoders to the backbone's device."""
        tower = self._opened_tower()
        with self._encoders_at_hand():
            for key in keys:
                text, pictures = told[key]
                if pictures:
                    row = tower.encode(text, pictures, self.device)
                else:
                    row = self.encode_prompts([text]).select([0])
                yield row.to(torch.device("cpu"))
            if self.offload_text_encoders:
                tower.to("cpu")

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


def _key(row: Told, tower: VisionTower) -> str:
    """Name of a row in a prompt cache: a prompt without pictures is called by its text."""
    text, pictures = row
    if not pictures:
        return text
    return "\0".join([text, tower.identity, *(picture.key for picture in pictures)])
