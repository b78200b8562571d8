"""Trajectory distribution matching: the noised distributions agree on every segment of the trajectory."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row, reduce_latent, velocity_to_clean
from diffopd.loss.setting import check_positive
from diffopd.types import LossTerm

DISTANCES = ("huber", "squared")
"""How the student's distance to its target is measured."""
DISTANCE_FLOOR = 1e-5
"""Smallest mean distance the generator's weight divides by."""


def renoise(
    latent: Float[Tensor, " batch *latent"],
    noise: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_after: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *latent"]:
    """A latent at ``sigma`` carried on to the larger ``sigma_after`` by the forward process.

    With ``k = (1 - sigma_after) / (1 - sigma)``: ``k latent + sqrt(sigma_after^2 - k^2 sigma^2) noise``, so
    that clean data with noise of deviation ``sigma`` becomes the same data with ``sigma_after``.

    Args:
        latent: The state.
        noise: Fresh standard normal noise.
        sigma: Noise of ``latent``, in [0, 1).
        sigma_after: Noise of the result, at least ``sigma``.

    Examples:
        >>> import torch
        >>> renoise(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0.0]), torch.tensor([0.25]))
        tensor([[1.]])
    """
    s, t = sigma.double(), sigma_after.double()
    kept = (1 - t) / (1 - s)
    added = (t.square() - (kept * s).square()).clamp_min(0).sqrt()
    state = latent.float()
    return per_row(kept.float(), state) * state + per_row(added.float(), state) * noise.float()


def mixed_noise(
    latent: Float[Tensor, " batch *latent"],
    clean: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *latent"]:
    """The noise between ``clean`` and ``latent``: the student's own, mixed with what was added since."""
    amount = per_row(sigma, latent)
    return (latent - (1 - amount) * clean) / amount


def importance_weight(
    mixed: Float[Tensor, " batch *latent"], fresh: Float[Tensor, " batch *latent"]
) -> Float[Tensor, " batch"]:
    """``exp(-mean(mixed^2) / 2) / exp(-mean(fresh^2) / 2)``, a constant, in float32.

    How likely the mixed noise is as a draw of the forward process, against the fresh noise. Exponents are
    means over the latent, as in the released code: sums would under- or overflow.
    """
    exponent = (fresh.float().square() - mixed.float().square()).detach()
    return (reduce_latent(exponent, "mean") / 2).exp()


def tdm_loss(
    clean: Float[Tensor, " batch *latent"],
    clean_real: Float[Tensor, " batch *latent"],
    clean_fake: Float[Tensor, " batch *latent"],
    *,
    distance: str,
    huber_width: int | float,
) -> Float[Tensor, " batch"]:
    """Distance of the student's clean prediction to ``clean + clean_real - clean_fake``, a constant.

    Divided by ``mean |clean - clean_real|`` per sample, a constant. The released code adds
    ``(guidance_scale - 1) (clean_real - clean_unconditional)`` to the target; here ``clean_real`` is already
    the teacher's guided prediction.

    Args:
        clean: The student's clean prediction at the start of a segment; carries the gradient.
        clean_real: The teacher's, of the sample carried on to a random level.
        clean_fake: The same by a model of the student's distribution.
        distance: ``huber``: ``sqrt(d^2 + c^2) - c``; ``squared``: ``d^2``. Mean over the latent axes.
        huber_width: ``c``: below it the distance is quadratic.

    References:
        Luo et al., "Learning Few-Step Diffusion Models by Trajectory Distribution Matching", 2025,
        arXiv:2503.06674, and its released code.
    """
    start, real, fake = clean.float(), clean_real.detach().float(), clean_fake.detach().float()
    difference = start - (start.detach() + real - fake)
    scale = reduce_latent((start.detach() - real).abs(), "mean").clamp_min(DISTANCE_FLOOR)
    squared = difference.square()
    distances = squared if distance == "squared" else (squared + huber_width**2).sqrt() - huber_width
    return reduce_latent(distances, "mean") / scale


def tdm_fake_loss(
    clean_fake: Float[Tensor, " batch *latent"],
    clean: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    *,
    snr_clip: int | float,
) -> Float[Tensor, " batch"]:
    """``weight * min(snr, snr_clip) * mean (clean_fake - clean)^2`` with ``snr = ((1 - sigma) / sigma)^2``.

    Args:
        clean_fake: Clean prediction of the model of the student's distribution; carries the gradient.
        clean: The student's clean prediction; treated as a constant.
        sigma: Noise at which the former was made, above 0.
        weight: Importance weight of each sample.
        snr_clip: Largest weight of a noise level.
    """
    snr = ((1 - sigma.float()) / sigma.float()).square().clamp_max(snr_clip)
    error = reduce_latent((clean_fake.float() - clean.detach().float()).square(), "mean")
    return weight * snr * error


@final
class TDM:
    """The TDM losses of the student and of the model of its distribution, with their settings.

    Attributes:
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "trajectory_distribution"

    def __init__(
        self, *, distance: Literal["huber", "squared"], huber_width: int | float, snr_clip: int | float
    ) -> None:
        if distance not in DISTANCES:
            raise ValueError(f"loss.distance={distance} is not known; choose one of {', '.join(DISTANCES)}")
        check_positive(huber_width=huber_width, snr_clip=snr_clip)
        self.distance = distance
        self.huber_width = huber_width
        self.snr_clip = snr_clip

    def __call__(self, clean: Tensor, clean_real: Tensor, clean_fake: Tensor) -> LossTerm:
        """Loss of the student per sample; gradients reach ``clean`` alone."""
        settings = {"distance": self.distance, "huber_width": self.huber_width}
        return LossTerm(value=tdm_loss(clean, clean_real, clean_fake, **settings))

    def fake(self, velocity: Tensor, latent: Tensor, sigma: Tensor, clean: Tensor, fresh: Tensor) -> LossTerm:
        """Loss of the model of the student's distribution.

        Args:
            velocity: That model's output at ``latent``; carries the gradient.
            latent: The student's state carried on to ``sigma``.
            sigma: Its noise.
            clean: The student's clean prediction; treated as a constant.
            fresh: The noise that was added on the way.

        Returns:
            Loss per sample. Metrics: ``importance_weight``.
        """
        weight = importance_weight(mixed_noise(latent, clean, sigma), fresh)
        predicted = velocity_to_clean(latent.float(), velocity.float(), sigma)
        value = tdm_fake_loss(predicted, clean, sigma, weight, snr_clip=self.snr_clip)
        return LossTerm(value=value, metrics={"importance_weight": weight})
