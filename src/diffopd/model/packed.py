"""What families share whose backbone reads a picture as tokens of 2 x 2 latent cells."""

from __future__ import annotations

from abc import ABC

from diffopd.model.image_size import check_image_size
from diffopd.model.library_grid import check_grid, resolution_mu
from diffopd.model.pipeline_model import PipelineModel


class PackedModel(PipelineModel, ABC):
    """A pipeline whose latents are packed into tokens, and whose sigma grid moves with their number."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        side = self.image_size // self.pipeline.vae_scale_factor
        return (self.transformer.config.in_channels // 4, side, side)

    def check_settings(self) -> None:
        """A token is 2 x 2 cells; the grid moves with their number."""
        check_image_size(self.image_size, self.path, cell=2 * self.pipeline.vae_scale_factor, largest=None)
        scheduler, (_, height, width) = self.pipeline.scheduler, self.latent_shape
        mu = resolution_mu(scheduler, height * width // 4)
        check_grid(self.shift, scheduler, lambda num_steps: mu, self.path)
