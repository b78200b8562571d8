"""Flow-matching pretraining of the embedded model, text encoders included."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from diffopd.data.drawings import DrawingBatch, to_image_tensor, training_drawing
from diffopd.files.atomic import replacing_folder
from diffopd.flow import interpolate, shift_sigma
from diffopd.loss import velocity_gap
from diffopd.model.untrained import Pipeline
from diffopd.phase.half import half_precision
from diffopd.phase.schedule import warmup_cosine
from diffopd.randomness import torch_generator
from diffopd.types.precision import parse_dtype

OptimizerFactory = Callable[[Iterable[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


class PretrainPhase(lightning.LightningModule):
    """Rectified-flow pretraining: at a random sigma, predict ``noise - clean``.

    Args:
        pipeline: A pipeline with a trained autoencoder.
        optimizer: Makes the optimizer from parameters.
        seed: Seed of drawings, noise and sigmas.
        num_drawings: Different drawings; encoded once, before training.
        sign_share: Share of signs among them.
        output: Folder for the trained pipeline (its averaged weights).
        text_length: Length of the T5 slot, as in sampling.
        caption_dropout: Share of captions replaced by the empty one, which makes guidance possible.
        sigma_shift: Shift of the uniformly drawn sigma towards noise: ``s u / (1 + (s - 1) u)``.
        warmup_steps: Steps of linear warm-up; the learning rate then falls to 0 along a half cosine.
        gradient_clip: Largest gradient norm.
        ema_decay: Decay of the weight average that is saved.
        dtype: Precision of the networks' forward and backward; weights, averages and the loss are fp32.
        compile: Compile the transformer's blocks at the first step: minutes, then a fifth faster on a CPU.
    """

    names_parameters: ClassVar[bool] = True  # to the optimizer, which may sort them
    round_kind: ClassVar[str] = "drawings"

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        optimizer: OptimizerFactory,
        seed: int,
        num_drawings: int,
        sign_share: float,
        output: str,
        text_length: int,
        caption_dropout: float,
        sigma_shift: float,
        warmup_steps: int,
        gradient_clip: float,
        ema_decay: float,
        dtype: str,
        compile: bool,
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.trained = nn.ModuleDict(
            {
                "transformer": pipeline.transformer,
                "text_encoder": pipeline.text_encoder,
                "text_encoder_2": pipeline.text_encoder_2,
            }
        )
        self.average = torch.optim.swa_utils.AveragedModel(
            self.trained, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
        )
        self.make_optimizer = optimizer
        self.seed, self.num_drawings, self.sign_share = seed, num_drawings, sign_share
        self.output, self.dtype_of_networks = output, parse_dtype(dtype, "phase.dtype")
        self.text_length, self.caption_dropout, self.sigma_shift = text_length, caption_dropout, sigma_shift
        self.warmup_steps, self.gradient_clip = warmup_steps, gradient_clip
        self.compiles = compile
        self.latents = torch.empty(0)
        self.texts: list[str] = []

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        optimizer = self.make_optimizer(self.trained.named_parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": warmup_cosine(optimizer, self.warmup_steps, self.trainer),
        }

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip by norm."""
        self.clip_gradients(optimizer, gradient_clip_val=self.gradient_clip, gradient_clip_algorithm="norm")

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """Draw and encode every drawing once; the autoencoder is not needed after."""
        if self.compiles:
            for block in self.pipeline.transformer.transformer_blocks:
                block.compile()
        vae, chunks = self.pipeline.vae.to(self.device).eval(), []
        shift = vae.config.shift_factor or 0.0
        self.texts = []
        for start in range(0, self.num_drawings, 512):
            drawings = [
                training_drawing(self.seed, i, self.sign_share, side=vae.config.sample_size)
                for i in range(start, min(start + 512, self.num_drawings))
            ]
            self.texts += [drawing.text for drawing in drawings]
            images = (
                to_image_tensor(np.stack([drawing.pixels for drawing in drawings])).to(self.device) * 2 - 1
            )
            with half_precision(self.device, self.dtype_of_networks):
                latents = vae.encode(images).latent_dist.mean
            chunks.append(((latents.float() - shift) * vae.config.scaling_factor).half().cpu())
        self.latents = torch.cat(chunks)

    def training_step(self, batch: DrawingBatch, batch_index: int) -> Tensor:
        """One step of flow matching."""
        generator = torch_generator(self.seed, "pretrain/step", batch.step)
        size, rows = len(batch.everyone), batch.indices
        noise = batch.mine(torch.randn((size, *self.latents.shape[1:]), generator=generator))
        uniform = batch.mine(torch.rand(size, generator=generator))
        dropped = torch.rand(size, generator=generator) < self.caption_dropout
        clean = self.latents[torch.as_tensor(rows)].float()
        sigma = shift_sigma(uniform, self.sigma_shift)
        texts = ["" if drop else self.texts[row] for row, drop in zip(batch.everyone, dropped, strict=True)]
        signs = torch.tensor(["sign" in text for text in texts])
        texts = texts[batch.rows.start : batch.rows.stop]
        clean, noise, sigma = clean.to(self.device), noise.to(self.device), sigma.to(self.device)
        velocity = self._velocity(interpolate(clean, noise, sigma), sigma, texts)
        error = velocity_gap(velocity, noise - clean, reduction="mean")
        logged = {"train/loss": error.mean().detach()}
        if signs.any():  # on some process
            weights = batch.mine(signs / signs.float().mean()).to(self.device)
            logged["train/loss_signs"] = (weights * error.detach()).mean()
        self.log_dict(logged, sync_dist=True, batch_size=len(batch))
        return error.mean()

    def trial_step(self, batch_size: int = 16) -> None:
        """A forward and backward of the usual shape without lasting effects, to time."""
        config = self.pipeline.transformer.config
        latent = torch.zeros(batch_size, config.in_channels, config.sample_size, config.sample_size)
        texts = ["a photo of a circle"] * batch_size
        velocity = self._velocity(latent.to(self.device), torch.ones(batch_size, device=self.device), texts)
        velocity.square().mean().backward()
        self.trained.zero_grad()

    def _velocity(self, latent: Tensor, sigma: Tensor, texts: list[str]) -> Tensor:
        with half_precision(self.device, self.dtype_of_networks):
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                texts,
                texts,
                texts,
                do_classifier_free_guidance=False,
                device=self.device,  # pyright: ignore[reportArgumentType]
                max_sequence_length=self.text_length,
            )
            velocity = self.pipeline.transformer(
                hidden_states=latent,
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                timestep=1000 * sigma,
                return_dict=False,
            )[0]
        return velocity.float()

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the weight average."""
        self.average.update_parameters(self.trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training changes; the autoencoder stays as it was loaded."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k.startswith(("trained.", "average."))}

    def on_train_end(self) -> None:
        """Save the pipeline with its averaged weights."""
        if self.trainer.is_global_zero:
            self.save(Path(self.output))

    def save(self, folder: Path) -> None:
        """Save the pipeline with its averaged weights; training weights are put back after."""
        training = {k: v.clone() for k, v in self.trained.state_dict().items()}
        self.trained.load_state_dict(self.average.module.state_dict())
        with replacing_folder(folder) as temporary:
            self.pipeline.save_pretrained(temporary, safe_serialization=True)
        self.trained.load_state_dict(training)
