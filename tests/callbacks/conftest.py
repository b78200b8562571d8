"""A tiny training as the phases do it: one round = one epoch, manual optimisation, stateless draws."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from diffopd.checkpoint import SafetensorsCheckpointIO

BATCH = 4


class Rounds(Dataset):
    """Sample ``i`` of round ``r`` depends on (seed, r, i) alone."""

    def __init__(self) -> None:
        self.round = 0

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * self.round + index)
        return torch.randn(3, generator=generator)


class TinyPhase(LightningModule):
    """Two AdamW steps per batch and a schedule; checkpoints leave the frozen backbone out."""

    def __init__(self, loss_at: dict[int, float] | None = None, num_batches: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.backbone = torch.nn.Linear(3, 8).requires_grad_(False)
        self.adapter = torch.nn.Linear(8, 1)
        self.strict_loading = False
        self.data = Rounds()
        self.num_batches = num_batches
        self.loss_at = loss_at or {}
        self.losses: list[float] = []
        self.before_round: Callable[[int], None] = lambda round_index: None

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=BATCH // self.num_batches)

    def on_train_epoch_start(self) -> None:
        self.data.round = self.current_epoch
        self.before_round(self.current_epoch)

    def training_step(self, batch, batch_idx):
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        for _ in range(2):
            loss = (self.adapter(torch.tanh(self.backbone(batch))) - 1).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        scheduler.step()
        loss = loss.detach() + self.loss_at.get(self.current_epoch, 0.0)
        self.losses.append(loss.item())
        self.log("train/loss/total", loss, on_step=False, on_epoch=True, batch_size=BATCH)
        self.log("train/reward/ocr", 0.25, on_step=False, on_epoch=True, batch_size=BATCH)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)]

    def state_dict(self, *args, **kwargs):
        whole = super().state_dict(*args, **kwargs)
        return {name: value for name, value in whole.items() if not name.startswith("backbone")}


@pytest.fixture
def tiny_phase() -> type[TinyPhase]:
    return TinyPhase


@pytest.fixture
def fit(tmp_path: Path):
    """``fit(phase, callbacks, rounds, ckpt_path=None) -> trainer``, quiet and on the CPU."""

    def run(phase, callbacks, rounds, ckpt_path=None, logger=False) -> Trainer:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=rounds,
            default_root_dir=tmp_path,
            logger=logger,
            log_every_n_steps=1,
            callbacks=callbacks,
            plugins=[SafetensorsCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=any(type(c).__name__ == "RoundCheckpoint" for c in callbacks),
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(phase, ckpt_path=ckpt_path)
        return trainer

    return run
