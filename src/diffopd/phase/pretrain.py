"""Flow-matching pretraining of the embedded models, by text alone or with a reference picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn

from diffopd.data.drawings import DrawingBatch
from diffopd.flow import interpolate, shift_sigma
from diffopd.loss import velocity_gap
from diffopd.model.pretraining import pretraining
from diffopd.model.saving import save_pipeline
from diffopd.phase.half import half_precision
from diffopd.phase.pretrain_rows import (
    EncodedDrawings,
    Row,
    Shown,
    encode_drawings,
    shown,
    stacked_references,
    without_and_with_reference,
)
from diffopd.phase.schedule import warmup_cosine
from diffopd.randomness import torch_generator
from diffopd.types.precision import parse_dtype

OptimizerFactory = Callable[[Iterable[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


class PretrainPhase(lightning.LightningModule):
    """Rectified-flow pretraining: at a random sigma, predict ``noise - clean``.

    Args:
        pipeline: A pipeline with a trained autoencoder, of a family of :mod:`diffopd.model.pretraining`.
        optimizer: Makes the optimizer from parameters.
        seed: Seed of drawings, noise and sigmas.
        num_drawings: Different drawings; encoded once, before training.
        sign_share: Share of signs among those without a figure.
        output: Folder for the trained pipeline (its averaged weights).
        text_length: Tokens of a prompt; of Stable Diffusion 3, of the T5 slot. As in sampling.
        caption_dropout: Share of captions replaced by the empty one, which makes guidance possible.
        sigma_shift: Shift of the uniformly drawn sigma towards noise: ``s u / (1 + (s - 1) u)``.
        warmup_steps: Steps of linear warm-up; the learning rate then falls to 0 along a half cosine.
        gradient_clip: Largest gradient norm.
        ema_decay: Decay of the weight average that is saved.
        dtype: Precision of the networks' forward and backward; weights, averages and the loss are fp32.
        compile: Compile the transformer's blocks at the first step: minutes, then a fifth faster on a CPU.
        figure_share: Share of random figures among the drawings.
        copy_share: Share of each step's samples whose reference picture is the target itself.
        same_figure_share: Share whose reference shows the target's figure at another place.
    """

    names_parameters: ClassVar[bool] = True  # to the optimizer, which may sort them
    round_kind: ClassVar[str] = "drawings"

    def __init__(
        self,
        *,
        pipeline: Any,
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
        figure_share: float = 0.0,  # these three are not in the configs that earlier runs saved
        copy_share: float = 0.0,
        same_figure_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.pipeline, self.family = pipeline, pretraining(pipeline, text_length)
        self.trained = nn.ModuleDict(self.family.trained)
        _check_shares(self.family.takes_references, figure_share, copy_share, same_figure_share)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.trained, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
        )
        self.make_optimizer = optimizer
        self.seed, self.num_drawings, self.sign_share = seed, num_drawings, sign_share
        self.output, self.dtype_of_networks = output, parse_dtype(dtype, "phase.dtype")
        self.caption_dropout, self.sigma_shift, self.figure_share = caption_dropout, sigma_shift, figure_share
        self.shares = {Shown.ITSELF: copy_share, Shown.SAME_FIGURE: same_figure_share}
        self.warmup_steps, self.gradient_clip = warmup_steps, gradient_clip
        self.compiles = compile
        self.drawings = EncodedDrawings.none()

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
            for block in self.family.blocks:
                block.compile(dynamic=False)
        vae = self.pipeline.vae.to(self.device).eval()

        def encode(pictures: Tensor) -> Tensor:
            with half_precision(self.device, self.dtype_of_networks):
                return self.family.encode(pictures.to(self.device))

        self.drawings = encode_drawings(
            encode,
            seed=self.seed,
            number=self.num_drawings,
            sign_share=self.sign_share,
            figure_share=self.figure_share,
            side=vae.config.sample_size,
        )

    def training_step(self, batch: DrawingBatch, batch_index: int) -> Tensor:
        """One step of flow matching."""
        generator = torch_generator(self.seed, "pretrain/step", batch.step)
        size, shape = len(batch.everyone), self.drawings.latents.shape[1:]
        noise = batch.mine(torch.randn((size, *shape), generator=generator)).to(self.device)
        sigma = shift_sigma(batch.mine(torch.rand(size, generator=generator)), self.sigma_shift)
        dropped = torch.rand(size, generator=generator) < self.caption_dropout
        kinds = [shown(position, self.shares) for position in range(size)]
        rows = [self.drawings.row(index, kind) for index, kind in zip(batch.everyone, kinds, strict=True)]
        rows = [replace(row, text="") if drop else row for row, drop in zip(rows, dropped, strict=True)]
        error = self._error(rows[batch.rows.start : batch.rows.stop], noise, sigma.to(self.device))
        self._log(error.detach(), batch, rows, kinds)
        return error.mean()

    def _error(self, rows: Sequence[Row], noise: Tensor, sigma: Tensor) -> Tensor:
        """Mean squared error of each velocity; samples with a reference have a forward of their own."""
        clean = torch.stack([row.clean for row in rows]).to(self.device)
        latent, target = interpolate(clean, noise, sigma), noise - clean
        error = torch.zeros(len(rows), device=self.device)
        for chosen in without_and_with_reference(rows):
            texts, references = [rows[i].text for i in chosen], stacked_references([rows[i] for i in chosen])
            references = None if references is None else references.to(self.device)
            velocity = self._velocity(latent[chosen], sigma[chosen], texts, references)
            places = (torch.tensor(chosen, device=self.device),)
            error = error.index_put(places, velocity_gap(velocity, target[chosen], reduction="mean"))
        return error

    def _log(self, error: Tensor, batch: DrawingBatch, rows: Sequence[Row], kinds: Sequence[Shown]) -> None:
        """Log the mean error, and that of signs and of each kind of reference, over all processes."""
        groups = {"loss_signs": ["sign" in row.text for row in rows]}
        if len(set(kinds)) > 1:
            groups |= {f"loss_{kind.value}": [other is kind for other in kinds] for kind in set(kinds)}
        logged = {"train/loss": error.mean()}
        for name, members in groups.items():
            if any(members):  # on some process
                chosen = torch.tensor(members)
                weights = batch.mine(chosen / chosen.float().mean()).to(self.device)
                logged[f"train/{name}"] = (weights * error).mean()
        self.log_dict(logged, sync_dist=True, batch_size=len(batch))

    def trial_step(self, batch_size: int = 16) -> None:
        """A forward and backward of the usual shape without lasting effects, to time."""
        side = self.pipeline.vae.config.sample_size
        pictures = torch.zeros(1, 3, side, side, device=self.device)
        with torch.no_grad():
            latent = self.family.encode(pictures).expand(batch_size, -1, -1, -1)
        texts = ["a photo of a circle"] * batch_size
        references = latent if any(self.shares.values()) else None
        velocity = self._velocity(latent, torch.ones(batch_size, device=self.device), texts, references)
        velocity.square().mean().backward()
        self.trained.zero_grad()

    def _velocity(self, latent: Tensor, sigma: Tensor, texts: list[str], references: Tensor | None) -> Tensor:
        with half_precision(self.device, self.dtype_of_networks):
            return self.family.velocity(latent, sigma, texts, references).float()

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
        save_pipeline(self.pipeline, folder)
        self.trained.load_state_dict(training)


def _check_shares(takes_references: bool, figures: float, copies: float, same: float) -> None:
    if (copies or same) and not takes_references:
        raise ValueError(
            f"phase.copy_share={copies} and phase.same_figure_share={same} show reference pictures, which "
            "this pipeline does not read; set both to 0"
        )
    if copies + same > 1:
        raise ValueError(
            f"phase.copy_share={copies} and phase.same_figure_share={same} add up to more than 1"
        )
    if same and not figures:
        raise ValueError(
            f"phase.same_figure_share={same} needs drawings of figures; set phase.figure_share above 0"
        )
