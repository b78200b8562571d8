"""Student and teacher on the student's own states: is the one that is told more nearer to the target?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.data.rounds import RoundData
from diffopd.files.picture import read_picture
from diffopd.flow import velocity_to_clean
from diffopd.metric.context_gain import ProbedState
from diffopd.metric.placement import LEAST_SIDE, placement
from diffopd.phase.distill import DistillPhase
from diffopd.types import KEPT, Prompts


@runtime_checkable
class PictureDistance(Protocol):
    """A perceptual distance of pictures."""

    def __call__(
        self,
        images: Float[Tensor, " batch 3 height width"],
        targets: Float[Tensor, " batch 3 height width"],
    ) -> Float[Tensor, " batch"]:
        """One distance per pair; pictures in [0, 1] on the CPU, lower is nearer."""
        ...


def probed_rows(data: RoundData, number: int) -> Prompts | None:
    """Rows of different pictures, with indices of their own; None if the data has no pictures.

    Args:
        data: Its rounds are gone through in order.
        number: Most pictures.
    """
    found: dict[str, Prompts] = {}
    entries = sum(len(task.entries) for name, task in data.tasks.items() if name != KEPT)
    for round_index in range(1 + entries):  # every round has a picture, and a pass has each of them
        batch = data.batch(round_index)
        for row, target in enumerate(batch.targets):
            if target is not None and target.key not in found and len(found) < number:
                found[target.key] = batch.select([row])
        if len(found) >= min(number, entries) or not any(batch.targets):
            break
    if not found:
        return None
    rows = Prompts.concat(list(found.values()))
    count = tuple(range(len(rows)))
    return Prompts(rows.texts, rows.tasks, rows.metadata, count, count, rows.targets, rows.references)


@torch.no_grad()
def probe_context(
    phase: DistillPhase, prompts: Prompts, *, num_draws: int, perceptual: PictureDistance | None = None
) -> list[ProbedState]:
    """Roll the student out on rows with targets, and ask its teacher at each of its states.

    Noise derives from the run's seed by a name of its own, so that no draw of the training changes.

    Args:
        phase: A phase whose teacher is told more about a row.
        prompts: Rows with targets, numbered from 0.
        num_draws: Rollouts of each row, from different noise.
        perceptual: Also compares decoded predictions with the pictures.

    Returns:
        Each state, with a number for each row.
    """
    num_steps = phase.sampler.num_steps
    sums = [defaultdict[str, Tensor](lambda: torch.zeros(len(prompts))) for _ in range(num_steps)]
    for rows in phase.micro_batches(prompts):
        part = prompts.select(rows)
        for draw in range(num_draws):
            for step, values in _rollout(phase, part, draw, perceptual):
                for name, value in values.items():
                    sums[step][name][rows] += value.float().cpu() / num_draws
    return [_state(step, means) for step, means in enumerate(sums)]


def _rollout(
    phase: DistillPhase, prompts: Prompts, draw: int, perceptual: PictureDistance | None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The numbers of one rollout of rows of one size, step by step."""
    given = phase.conditioning(prompts)
    student = phase.student.given(given, phase.sampler.guidance_scale)
    teacher = phase.target.given(prompts, given)
    pictures = [target for target in prompts.targets if target is not None]
    clean = torch.stack([phase.model.encode_picture(picture) for picture in pictures]).to(phase.device)
    cells = _cells(phase, clean)

    def noise(purpose: str) -> Tensor:
        return phase.noise(f"context_probe/{purpose}", prompts, draw)

    for transition in phase.sampler.rollout(student, noise("start"), lambda step: noise(f"step/{step}")):
        latent, sigma = transition.latent, transition.sigma
        own = velocity_to_clean(latent, transition.velocity, sigma)
        its = velocity_to_clean(latent, teacher(latent, sigma), sigma)
        values = {"sigma": sigma, "student": _distance(own, clean), "teacher": _distance(its, clean)}
        if min(cells.shape[-2:]) >= LEAST_SIDE:
            placed = placement(_cells(phase, its), cells)
            values |= {"log_zoom": placed.zoom.log(), "agreement": placed.agreement}
            values |= {"down": placed.shift[:, 0], "right": placed.shift[:, 1]}
        if perceptual is not None:
            seen = torch.stack([read_picture(picture) for picture in pictures])
            values["perceptual_student"] = perceptual(phase.images(own), seen)
            values["perceptual_teacher"] = perceptual(phase.images(its), seen)
        yield transition.step, values


def _distance(prediction: Tensor, clean: Tensor) -> Tensor:
    return (prediction - clean).square().flatten(1).mean(1)


def _cells(phase: DistillPhase, latents: Tensor) -> Tensor:
    """Latents as the autoencoder has them, whose grid is the finest there is; a film's only frame."""
    cells = phase.model.to_vae(latents).float().cpu()
    return cells[:, :, 0] if cells.ndim == 5 else cells


def _state(step: int, means: dict[str, Tensor]) -> ProbedState:
    """A state's numbers as one record."""
    placed = "log_zoom" in means
    own, its = means.get("perceptual_student"), means.get("perceptual_teacher")
    return ProbedState(
        step=step,
        sigma=float(means["sigma"].mean()),
        student=means["student"],
        teacher=means["teacher"],
        zoom=means["log_zoom"].exp() if placed else None,
        shift=torch.stack([means["down"], means["right"]], 1) if placed else None,
        agreement=means["agreement"] if placed else None,
        perceptual=None if own is None or its is None else (own, its),
    )
