"""What families share whose backbone reads a picture as tokens of 2 x 2 latent cells."""

from __future__ import annotations

from abc import ABC

from diffopd.model.library_grid import check_grid, resolution_mu
from diffopd.model.pipeline_model import PipelineModel
from diffopd.types.size import Size


class PackedModel(PipelineModel, ABC):
    """A pipeline whose latents are packed into tokens, and whose sigma grid moves with their number."""

    def latent_shape_at(self, size: Size) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        factor = self.pipeline.vae_scale_factor
        return (self.transformer.config.in_channels // 4, size[0] // factor, size[1] // factor)

    @property
    def cell(self) -> int:
        """A token is 2 x 2 cells of the autoencoder."""
        return 2 * self.pipeline.vae_scale_factor

    def check_settings(self) -> None:
        """The grid moves with the number of tokens."""
        scheduler, (_, height, width) = self.pipeline.scheduler, self.latent_shape_at(self.size)
        mu = resolution_mu(scheduler, height * width // 4)
        check_grid(self.shift, scheduler, lambda num_steps: mu, self.path)
