"""A transition whose velocity is linear in its parameters, drawn many times from one state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffopd.loss import ReverseKL
from diffopd.sampler import FlowSampler
from diffopd.types import Transition

SIZE = 3


@dataclass
class LinearProblem:
    """``velocity = matrix latent`` at one state, seen in many rows that differ in the drawn noise alone."""

    latent: Tensor
    matrix: Tensor
    teacher: Tensor
    noise: Tensor
    loss: ReverseKL
    step: int = 5

    def transition(self, velocity: Tensor, next_latent: Tensor | None = None) -> Transition:
        """The transition of every row, drawn by ``velocity`` unless ``next_latent`` is given."""
        sampler = FlowSampler(num_steps=10, noise_level=0.7, shift=3.0, guidance_scale=1.0)
        rows = self.latent.expand(len(self.noise), SIZE)
        noise = self.noise if next_latent is None else None
        return sampler.transition(self.step, rows, velocity, noise=noise, next_latent=next_latent)

    def gradients(self, estimator, matrix_old: Tensor | None = None) -> Tensor:
        """Gradient wrt the matrix for each row's noise, turned into an action by ``matrix_old``."""
        rows = len(self.noise)
        old = (self.latent @ (self.matrix if matrix_old is None else matrix_old).T).expand(rows, SIZE)
        velocity = (self.latent @ self.matrix.T).expand(rows, SIZE).clone().requires_grad_()
        student = self.transition(velocity, self.transition(old).next_latent)
        term = estimator(self.loss, student, old, self.teacher.expand(rows, SIZE))
        (by_velocity,) = torch.autograd.grad(term.value.sum(), velocity)
        return torch.einsum("ni,j->nij", by_velocity, self.latent).flatten(1)


@pytest.fixture(scope="session")
def problem() -> Callable[..., LinearProblem]:
    """``problem(num_draws)``: the student is about two nats from its teacher."""

    def make(num_draws: int) -> LinearProblem:
        generator = torch.Generator().manual_seed(0)
        latent, target = (torch.randn(SIZE, generator=generator) for _ in range(2))
        matrix = torch.randn(SIZE, SIZE, generator=generator)
        noise = torch.randn(num_draws, SIZE, generator=generator)
        teacher = latent @ matrix.T + 3 * target
        return LinearProblem(latent, matrix, teacher, noise, ReverseKL(reduction="sum", normalize=False))

    return make
