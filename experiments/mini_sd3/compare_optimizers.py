"""Loss of a short pretraining under AdamW or Muon, on the same drawings, noise and order.

``python experiments/mini_sd3/compare_optimizers.py <pipeline folder> adamw|muon <learning rate> <steps>``
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from typing import Any

import torch

from diffopd.data.drawings import DrawingBatch
from diffopd.model.untrained import pipeline_to_train
from diffopd.optimizer import MuonAdamW
from diffopd.phase import PretrainPhase
from diffopd.randomness import numpy_generator

DRAWINGS, BATCH, WARMUP = 6000, 48, 50


def compare(folder: str, kind: str, lr: float, steps: int) -> None:
    """Print the mean loss of every hundred steps; the learning rate falls to a tenth over the last 40 %."""
    torch.set_num_threads(1)
    factories = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=lr, betas=(0.9, 0.99), weight_decay=0.01),
        "muon": partial(
            MuonAdamW,
            lr=lr,
            momentum=0.95,
            weight_decay=0.01,
            adamw_lr=1.5e-3,
            adamw_betas=(0.9, 0.99),
            matrices_in="transformer_blocks",
        ),
    }
    phase: Any = PretrainPhase(
        pipeline=pipeline_to_train(path=folder),
        optimizer=factories[kind],
        seed=0,
        num_drawings=DRAWINGS,
        sign_share=0.06,
        output="",
        text_length=0,
        caption_dropout=0.1,
        sigma_shift=2.0,
        warmup_steps=WARMUP,
        gradient_clip=1.0,
        ema_decay=0.9,
        dtype="fp32",
        compile=False,
    )
    phase.log_dict = lambda *_, **__: None  # there is no trainer to log to
    phase.on_fit_start()
    optimizer = factories[kind](phase.trained.named_parameters())
    base = [group["lr"] for group in optimizer.param_groups]
    losses, start = [], time.monotonic()
    for step in range(steps):
        factor = min(1.0, (step + 1) / WARMUP) * (1 - 0.9 * max(0.0, (step / steps - 0.6) / 0.4))
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor
        rows = numpy_generator(0, "comparison", step).integers(DRAWINGS, size=BATCH)
        loss = phase.training_step(DrawingBatch(step, tuple(rows.tolist())), 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(phase.trained.parameters(), phase.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            mean = statistics.fmean(losses[-100:])
            print(f"{kind} lr {lr} step {step + 1}: {mean:.4f}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    compare(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
