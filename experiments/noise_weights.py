"""Weights of Eq. 11 and 12 over a rollout, by noise level: ``python experiments/noise_weights.py``."""

from __future__ import annotations

import torch

from diffopd.files.markdown import markdown_table
from diffopd.loss import OPD
from diffopd.sampler import FlowSampler
from diffopd.types import Transition

LEVELS = (0.0, 0.3, 0.7, 1.0)
STEPS, SHIFT = 10, 3.0
"""The grid of rollouts in training; its last step is not trained."""


def trained_steps(noise_level: float) -> list[Transition]:
    """Every step of a rollout but the last."""
    sampler = FlowSampler(num_steps=STEPS, noise_level=noise_level, shift=SHIFT, guidance_scale=1.0)
    return sampler.grid_transitions()[:-1]


def weights(noise_level: float) -> torch.Tensor:
    """Weight of each trained step's squared velocity gap: Eq. 12 at noise level 0, else Eq. 11."""
    loss = OPD(reduction="mean", normalize=False)
    return torch.stack([loss.weight(step)[0].double() for step in trained_steps(noise_level)])


def table() -> str:
    """Each step's weight and its share of all trained steps' weights, by noise level."""
    by_level = {level: weights(level) for level in LEVELS}
    header = ["step", "sigma", *(f"noise {level:g}" for level in LEVELS)]
    sigmas = [step.sigma.item() for step in trained_steps(0.0)]
    rows = [
        [
            f"{step}",
            f"{sigma:.3f}",
            *(f"{found[step]:.2e} ({found[step] / found.sum():.1%})" for found in by_level.values()),
        ]
        for step, sigma in enumerate(sigmas)
    ]
    rows.append(["sum", "", *(f"{found.sum():.2e}" for found in by_level.values())])
    return markdown_table(header, rows)


if __name__ == "__main__":
    print(table())
