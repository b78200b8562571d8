"""Training the embedded model's autoencoder on drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
from torch import Tensor

from diffopd.data.drawings import DrawingBatch, restyled, to_image_tensor, training_drawing
from diffopd.model.pretraining import pretraining
from diffopd.model.saving import save_pipeline
from diffopd.phase.half import half_precision
from diffopd.phase.schedule import warmup_cosine
from diffopd.randomness import torch_generator
from diffopd.types.precision import parse_dtype

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class AutoencoderPhase(lightning.LightningModule):
    """Reconstruction, with a small KL weight of the latents to a standard normal.

    When training ends, what gives latents mean 0 and variance 1 is measured and written into the
    autoencoder, and the whole pipeline is saved.

    Args:
        pipeline: The pipeline whose autoencoder is trained.
        optimizer: Makes the optimizer from parameters.
        seed: Seed of drawings and latent noise.
        sign_share: Share of signs among the drawings without a figure.
        output: Folder for the trained pipeline.
        kl_weight: Weight of the KL term, relative to the mean absolute pixel error.
        gradient_weight: Weight of the error of neighboring-pixel differences, which keeps edges sharp.
        warmup_steps: Steps of linear warm-up; the learning rate then falls to 0 along a half cosine.
        dtype: Precision of the networks' forward and backward; weights and losses are fp32.
        figure_share: Share of random figures among the drawings.
        restyled_share: Share of the drawings in colors and textures that the world does not have.
    """

    round_kind: ClassVar[str] = "drawings"

    def __init__(
        self,
        *,
        pipeline: Any,
        optimizer: OptimizerFactory,
        seed: int,
        sign_share: float,
        output: str,
        kl_weight: float,
        gradient_weight: float,
        warmup_steps: int,
        dtype: str,
        figure_share: float = 0.0,  # these two are not in the configs that earlier runs saved
        restyled_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.vae = pipeline.vae
        self.make_optimizer = optimizer
        self.seed, self.sign_share, self.output = seed, sign_share, output
        self.figure_share, self.restyled_share = figure_share, restyled_share
        self.kl_weight, self.gradient_weight, self.warmup_steps = kl_weight, gradient_weight, warmup_steps
        self.dtype_of_networks = parse_dtype(dtype, "phase.dtype")

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        optimizer = self.make_optimizer(self.vae.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": warmup_cosine(optimizer, self.warmup_steps, self.trainer),
        }

    def training_step(self, batch: DrawingBatch, batch_index: int) -> Tensor:
        """Encode, sample a latent, decode, compare."""
        images = self._images(batch.indices, self.restyled_share).to(self.device) * 2 - 1
        with half_precision(self.device, self.dtype_of_networks):
            encoded = self.vae.encode(images).latent_dist
        posterior = type(encoded)(encoded.parameters.float())
        shape = (len(batch.everyone), *posterior.mean.shape[1:])
        noise = torch.randn(shape, generator=torch_generator(self.seed, "vae/latent", batch.step))
        noise = batch.mine(noise).to(self.device)
        with half_precision(self.device, self.dtype_of_networks):
            restored = self.vae.decode(posterior.mean + posterior.std * noise).sample
        restored = restored.float()
        error = (restored - images).abs().mean()
        edges = sum((restored - images).diff(dim=axis).abs().mean() for axis in (-1, -2))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + self.gradient_weight * edges + self.kl_weight * kl
        self.log_dict(
            {"train/loss": loss.detach(), "train/pixel_error": error.detach(), "train/kl": kl.detach()},
            sync_dist=True,
            batch_size=len(batch),
        )
        return loss

    def trial_step(self) -> None:
        """A forward and backward of the usual shape without lasting effects, to time."""
        images = self._images(range(16)).to(self.device) * 2 - 1
        with half_precision(self.device, self.dtype_of_networks):
            restored = self.vae.decode(self.vae.encode(images).latent_dist.mean).sample
        restored.float().abs().mean().backward()
        self.vae.zero_grad()

    def _images(self, indices: Sequence[int], restyled_share: float = 0.0) -> Tensor:
        side = self.vae.config.sample_size
        drawings = [
            training_drawing(self.seed, int(i), self.sign_share, side=side, figure_share=self.figure_share)
            for i in indices
        ]
        pixels = [
            restyled(self.seed, int(i), drawing.pixels, restyled_share)
            for i, drawing in zip(indices, drawings, strict=True)
        ]
        return to_image_tensor(np.stack(pixels))

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Measure the latents of the world's own drawings and save the pipeline."""
        self.vae.eval()
        pretraining(self.pipeline, text_length=0).measure(self._images(range(512)).to(self.device) * 2 - 1)
        if self.trainer.is_global_zero:
            save_pipeline(self.pipeline, self.output)
