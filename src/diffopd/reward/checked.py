"""The one way to call a reward: sound images in, one finite number per image out, or a named error."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.server.raised import told
from diffopd.types import Prompts, Reward, Scores

_RANGE_SLACK = 1e-3  # rounding of a decoder's last clamp in half precision


@dataclass(frozen=True)
class Sample:
    """One image of a batch, with its prompt.

    Attributes:
        image: On the CPU; in [0, 1] if the model that made it is sound.
        prompt: One row.
    """

    image: Float[Tensor, " 3 height width"]
    prompt: Prompts

    @staticmethod
    def of(images: Float[Tensor, " batch 3 height width"], prompts: Prompts, row: int) -> Sample:
        """The sample in one row of a batch."""
        return Sample(images[row].detach().cpu().clone(), prompts.select([row]))

    def __str__(self) -> str:
        (index,), (task,), (text,) = self.prompt.indices, self.prompt.tasks, self.prompt.texts
        return f"sample {index} (task '{task}', prompt {text!r})"


class RewardError(RuntimeError):
    """A sample that could not be scored; a score is never guessed in its place.

    Attributes:
        reward: Name of the reward's class or function.
        path: The reward's place in the config; each caller puts its own part before it.
        problem: What came, from which sample.
        sample: The sample that caused it, or the first of a batch that failed as a whole; None if what came
            are no images.
        note: What became of the sample, e.g. where it is saved; empty at first.
        non_finite: Whether a pixel or a score was nan or infinite, and nothing else is wrong.
    """

    def __init__(
        self, reward: str, path: str, problem: str, sample: Sample | None, non_finite: bool = False
    ) -> None:
        super().__init__(problem)
        self.non_finite = non_finite
        self.reward, self.path, self.problem, self.sample, self.note = reward, path, problem, sample, ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (f"{self.path} ({self.reward}) {self.problem}", self.note)))


@contextlib.contextmanager
def within(path: str) -> Iterator[None]:
    """Put ``path`` before the config path of a :class:`RewardError` that leaves the block."""
    try:
        yield
    except RewardError as error:
        error.path = f"{path}.{error.path}"
        raise


def score_checked(reward: Reward, images: Tensor, prompts: Prompts, path: str) -> Scores:
    """Score images, and check that the result is one finite number per image.

    If the reward raises, and only then, the samples are scored one by one to find the one at fault.

    Args:
        reward: Any scorer, ours or a user's.
        images: Batch of RGB images in [0, 1].
        prompts: One row per image.
        path: The reward's place in the config, from where the caller stands in it.

    Returns:
        The reward's scores; a plain tensor becomes their value.

    Raises:
        RewardError: If an image is not finite or leaves [0, 1], if the reward raises, or if what it returns
            has the wrong type or shape or is not finite.
    """
    error = functools.partial(RewardError, name_of(reward), path)
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(prompts):
        raise error(
            "needs images of shape (batch, 3, height, width) with one prompt each, got "
            f"{tuple(images.shape)} for {len(prompts)} prompts; decode latents first and pass RGB",
            None,
        )
    if found := _unsound_image(images, prompts):
        raise error(*found)
    try:
        with within(path):
            given: Any = reward(images, prompts)
    except RewardError:
        raise
    except Exception as raised:
        problem, sample, cause = _what_raised(reward, images, prompts, raised)
        raise error(problem, sample) from cause
    if isinstance(given, Tensor):
        given = Scores(given.float(), {}, f"as {name_of(reward)} returns it")
    if found := _unsound_scores(given, images, prompts):
        raise error(*found)
    return given


def check_prompt(reward: Any, prompt: Prompts) -> None:
    """Check that a reward can score images for a prompt, if it has a method ``check_prompt``.

    Args:
        reward: Any scorer, ours or a user's.
        prompt: One row.

    Raises:
        ValueError: If it cannot.
    """
    check = getattr(reward, "check_prompt", None)
    if check is not None:
        check(prompt)


def name_of(reward: Reward) -> str:
    """Name of a reward's class, or of the function it is."""
    called = reward.func if isinstance(reward, functools.partial) else reward
    return getattr(called, "__name__", type(called).__name__)


def _unsound_image(images: Tensor, prompts: Prompts) -> tuple[str, Sample, bool] | None:
    lowest, highest = images.flatten(1).aminmax(dim=1)  # NaN if a pixel is; no copy of the batch
    bad = ~((lowest >= -_RANGE_SLACK) & (highest <= 1 + _RANGE_SLACK))
    if not bad.any():
        return None
    row = int(bad.nonzero()[0])
    sample = Sample.of(images, prompts, row)
    return (
        (
            f"needs finite images in [0, 1], got values from {images[row].min().item():g} to "
            f"{images[row].max().item():g} in {sample}; did the model diverge, or is a clamp missing?"
        ),
        sample,
        not bool(torch.isfinite(images[row]).all()),
    )


def _what_raised(
    reward: Reward, images: Tensor, prompts: Prompts, raised: Exception
) -> tuple[str, Sample, Exception]:
    """What to say of a reward that raised, the sample at fault, and what it raised there."""
    for row in range(len(prompts)):
        try:
            reward(images[row : row + 1], prompts.select([row]))
        except Exception as error:
            sample = Sample.of(images, prompts, row)
            return f"raised {told(error)}, for {sample}", sample, error
    whole = f"the batch of {len(prompts)} as a whole; each sample alone can be scored"
    return f"raised {told(raised)}, for {whole}", Sample.of(images, prompts, 0), raised


def _unsound_scores(given: Any, images: Tensor, prompts: Prompts) -> tuple[str, Sample, bool] | None:
    count = len(prompts)
    if not isinstance(given, Scores):
        return (
            (
                f"must return a tensor with one number per image, or Scores, got {type(given).__name__} for "
                f"{count} images"
            ),
            Sample.of(images, prompts, 0),
            False,
        )
    parts: Any = given.parts
    named = isinstance(parts, Mapping) and all(isinstance(name, str) for name in (*parts, given.scale))
    if not named:
        return (
            (
                "must return Scores whose parts are a mapping of names to tensors and whose scale is a text, "
                f"got {type(parts).__name__} and {type(given.scale).__name__}"
            ),
            Sample.of(images, prompts, 0),
            False,
        )
    for part, values in (("value", given.value), *parts.items()):
        if not isinstance(values, Tensor) or values.shape != (count,):
            came = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            return (
                (
                    f"must return one number per image, got '{part}' of {came} for {count} images; return a "
                    f"tensor of shape ({count},), as images.mean((1, 2, 3)) is"
                ),
                Sample.of(images, prompts, 0),
                False,
            )
        bad = ~torch.isfinite(values)
        if "/" in part:  # belongs to one task, and is NaN on the rows of others
            of_task = [task == part.partition("/")[0] for task in prompts.tasks]
            bad &= torch.tensor(of_task, device=values.device)
        if bad.any():
            row = int(bad.nonzero()[0])
            sample = Sample.of(images, prompts, row)
            return f"returned '{part}' = {values[row].item()} for {sample}", sample, True
    return None
