"""The nouns every package shares: small frozen records and the Protocols that config groups meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts with what rewards and teachers need to know about them.

    Attributes:
        texts: The prompts as the user wrote them.
        tasks: Name of the task each prompt belongs to, e.g. ``"composition"``.
        metadata: One mapping per prompt; GenEval clauses (``tag``, ``include``, ``exclude``) live here.
        indices: Global sample index of each row, the same whatever the number of processes. All of a
            row's random draws derive from it, so a sample does not depend on its neighbours.
        groups: Index of the prompt each row repeats; rows of one group share statistics.
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    metadata: tuple[Mapping[str, Any], ...]
    indices: tuple[int, ...]
    groups: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Sequence[int]) -> Prompts:
        """The given rows, in the given order."""
        return Prompts(*(tuple(column[r] for r in rows) for column in self._columns()))

    def _columns(self) -> tuple[tuple[Any, ...], ...]:
        return (self.texts, self.tasks, self.metadata, self.indices, self.groups)

    @staticmethod
    def concat(parts: Sequence[Prompts]) -> Prompts:
        """All rows of ``parts``, in order."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return Prompts(*(tuple(x for column in c for x in column) for c in columns))


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts.

    A backbone fills what it reads: not all have a pooled vector, and not all prompts are of one length.

    Attributes:
        embeds: Token embeddings. Where prompts differ in length, the tokens of each come first and the rest
            of its row says nothing.
        pooled: One vector per prompt, or None.
        lengths: Number of tokens of each prompt, as numbers, so that reading them never waits for a device;
            None = all of ``embeds`` counts.
    """

    embeds: Float[Tensor, " batch token width"]
    pooled: Float[Tensor, " batch pooled"] | None = None
    lengths: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def select(self, rows: Sequence[int] | Tensor) -> Conditioning:
        """The given rows, in the given order, as long as the longest of them."""
        index = torch.as_tensor(rows).to(self.embeds.device, non_blocking=True)
        pooled = None if self.pooled is None else self.pooled[index]
        if self.lengths is None:
            return Conditioning(self.embeds[index], pooled)
        chosen = rows.tolist() if isinstance(rows, Tensor) else rows
        lengths = tuple(self.lengths[row] for row in chosen)
        return Conditioning(self.embeds[:, : max(lengths, default=0)][index], pooled, lengths)

    def expand(self, batch: int) -> Conditioning:
        """One row repeated ``batch`` times, without copying it.

        Raises:
            ValueError: If there is more than one row.
        """
        if len(self) != 1:
            raise ValueError(f"only a single row can be repeated, this has {len(self)}")
        return Conditioning(
            self.embeds.expand(batch, -1, -1),
            None if self.pooled is None else self.pooled.expand(batch, -1),
            None if self.lengths is None else self.lengths * batch,
        )

    def to(self, device: torch.device) -> Conditioning:
        """The same on ``device``."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return Conditioning(self.embeds.to(device), pooled, self.lengths)

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of ``parts``, in order, as long as the longest of them."""
        embeds, pooled, lengths = [p.embeds for p in parts], None, None
        if all(p.pooled is not None for p in parts):
            pooled = torch.cat([p.pooled for p in parts if p.pooled is not None])
        if all(p.lengths is not None for p in parts):
            lengths = tuple(length for p in parts for length in p.lengths or ())
            tokens = max(part.shape[1] for part in embeds)
            embeds = [nn.functional.pad(part, (0, 0, 0, tokens - part.shape[1])) for part in embeds]
        return Conditioning(torch.cat(embeds), pooled, lengths)


@dataclass(frozen=True)
class Transition:
    """One denoising step taken from ``latent`` at ``sigma`` to ``next_latent`` at ``sigma_next``.

    The step is a Gaussian with mean ``mean`` and standard deviation ``std`` (0 for an ODE step). ``mean``
    is affine in ``velocity`` with slope ``coefficient``, so for two models at one latent
    ``mean_a - mean_b = coefficient * (velocity_a - velocity_b)``.

    Attributes:
        step: Position in the rollout, 0 = pure noise.
        num_steps: Number of steps of the whole rollout.
        latent: State the step starts from; detached.
        sigma: Noise of ``latent``, in [0, 1].
        sigma_next: Noise after the step, smaller than ``sigma``.
        velocity: The model's output at ``latent``; carries the gradient.
        mean: Mean of the next latent; carries the gradient.
        std: Standard deviation of the next latent.
        std_released: What the released code calls ``std_dev_t``: for the flow SDE it lacks ``sqrt(-dt)``.
        coefficient: d mean / d velocity.
        next_latent: The sampled state; the rollout goes on from its detached value.
        stochastic: True when ``std`` is above 0; known without reading a tensor.
    """

    step: int
    num_steps: int
    latent: Float[Tensor, " batch *latent"]
    sigma: Float[Tensor, " batch"]
    sigma_next: Float[Tensor, " batch"]
    velocity: Float[Tensor, " batch *latent"]
    mean: Float[Tensor, " batch *latent"]
    std: Float[Tensor, " batch"]
    std_released: Float[Tensor, " batch"]
    coefficient: Float[Tensor, " batch"]
    next_latent: Float[Tensor, " batch *latent"]
    stochastic: bool


@dataclass(frozen=True)
class Trajectory:
    """The record of a rollout.

    Attributes:
        latents: States from pure noise to clean, both ends included.
        sigmas: The grid, from 1 to 0.
    """

    latents: Float[Tensor, " steps_plus_one batch *latent"]
    sigmas: Float[Tensor, " steps_plus_one"]

    @property
    def clean(self) -> Float[Tensor, " batch *latent"]:
        """The final latents."""
        return self.latents[-1]


@dataclass(frozen=True)
class LossTerm:
    """Per-sample loss and what to log about it.

    Attributes:
        value: One loss per sample; the phase averages (or sums) over samples, steps and tasks.
        metrics: Detached tensors of one value per sample, e.g. ``{"kl_nats": ...}``.
    """

    value: Float[Tensor, " batch"]
    metrics: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What a reward says of a batch of images.

    Attributes:
        value: The score to maximise, one per image.
        parts: Named components and diagnostics, one value per image each; one named ``<task>/<part>`` is NaN
            on the rows of other tasks.
        scale: What the numbers mean, e.g. ``"[0, 1], 1 = every clause holds"``.
    """

    value: Float[Tensor, " batch"]
    parts: Mapping[str, Float[Tensor, " batch"]]
    scale: str

    @staticmethod
    def concat(pieces: Sequence[Scores]) -> Scores:
        """All rows of ``pieces``, in order; a part that a piece lacks is NaN on its rows."""
        names = dict.fromkeys(name for piece in pieces for name in piece.parts)
        lacking = [torch.full_like(piece.value, torch.nan) for piece in pieces]
        parts = {
            name: torch.cat([p.parts.get(name, nan) for p, nan in zip(pieces, lacking, strict=True)])
            for name in names
        }
        # Pieces of a mixed batch may name other tasks.
        scales = dict.fromkeys(text for piece in pieces for text in piece.scale.split("; "))
        return Scores(torch.cat([piece.value for piece in pieces]), parts, "; ".join(scales))


VelocityFunction = Callable[[Tensor, Tensor], Tensor]
"""``(latent (batch, *latent), sigma (batch,)) -> velocity (batch, *latent)``."""

NoiseFunction = Callable[[int], Tensor]
"""``step -> standard normal noise (batch, *latent)`` for the step's fresh noise."""


@runtime_checkable
class VelocityModel(Protocol):
    """A text-to-image flow model that answers every phase's questions the same way."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one latent."""
        ...

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Encode prompts."""
        ...

    def velocity(
        self,
        latent: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        adapters: str | Sequence[str] | None = None,
    ) -> Tensor:
        """Velocity d latent / d sigma; ``adapters`` names one adapter for all rows, one per row, or none."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1], shape (batch, 3, height, width)."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Turns noise into images, one transition at a time."""

    num_steps: int
    guidance_scale: float

    @property
    def deterministic(self) -> bool:
        """True when every transition has standard deviation 0."""
        ...

    def sigmas(self) -> Float[Tensor, " steps_plus_one"]:
        """The grid, from 1 to 0."""
        ...

    def rollout(
        self, velocity: VelocityFunction, noise: Tensor, fresh_noise: NoiseFunction
    ) -> Iterator[Transition]:
        """Yield each transition; the caller may call ``backward`` before asking for the next."""
        ...


@runtime_checkable
class TransitionLoss(Protocol):
    """A distillation loss at one state the student visited."""

    def __call__(self, student: Transition, teacher_velocity: Tensor) -> LossTerm:
        """Loss per sample; ``teacher_velocity`` is treated as a constant."""
        ...


@runtime_checkable
class Reward(Protocol):
    """A scorer of images; :func:`diffopd.reward.checked.score_checked` is the one way to call it."""

    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts
    ) -> Scores | Float[Tensor, " batch"]:
        """Score images in [0, 1]: one value per image to maximise, alone or with all that ``Scores`` holds.

        Raises rather than guesses when a sample cannot be scored.
        """
        ...


@dataclass(frozen=True)
class KnownPair:
    """Two images of which one is better beyond doubt: what a scorer has to get right before it is trusted.

    Attributes:
        better: In [0, 1].
        worse: In [0, 1]; its size may be another.
        prompt: What both are judged for; one row.
    """

    better: Float[Tensor, " 3 height width"]
    worse: Float[Tensor, " 3 other_height other_width"]
    prompt: Prompts

    @staticmethod
    def of(
        better: Tensor,
        worse: Tensor,
        text: str,
        task: str = "known_pair",
        metadata: Mapping[str, Any] | None = None,
    ) -> KnownPair:
        """A pair judged for ``text``."""
        return KnownPair(better, worse, Prompts((text,), (task,), (metadata or {},), (0,), (0,)))


@dataclass(frozen=True)
class Detection:
    """One object a detector saw in an image.

    Attributes:
        name: Its class.
        box: Left, top, right, bottom in pixels.
        confidence: In [0, 1].
        colour: Name of its colour.
    """

    name: str
    box: tuple[float, float, float, float]
    confidence: float
    colour: str


@runtime_checkable
class Detector(Protocol):
    """Finds objects in images."""

    def __call__(self, images: Float[Tensor, " batch 3 height width"]) -> Sequence[Sequence[Detection]]:
        """The objects in each image in [0, 1], in any order."""
        ...
