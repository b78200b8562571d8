"""Draw a prompt: ``python -m diffopd.sample prompt="a photo of a red circle" adapter=<PEFT folder>``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command
from diffopd.config.arguments import ADAPTER, hydra_arguments
from diffopd.files.paths import resolve_path

if TYPE_CHECKING:
    from torch import Tensor

    from diffopd.model import PipelineModel
    from diffopd.types import Picture, Sampler

log = logging.getLogger(__name__)

MOST_FEW_STEPS = 16
"""Steps from which on a model that was made for few is asked for something else."""
SEEDS = 2**32 - 1
"""Largest seed, as on the command line."""


@command("sample", arguments=hydra_arguments, short=ADAPTER)
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, draw, save."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Draw as ``cfg`` asks; writes each image in its own size, and an enlarged sheet of them."""
    from hydra.utils import instantiate
    from rich.console import Console

    from diffopd.build.trained_model import load_model
    from diffopd.files.grid import image_sheet
    from diffopd.files.png import save_png

    prompt, count, folder = str(cfg.prompt), int(cfg.num_images), Path(cfg.paths.run)
    _check_count(count)  # before weights load
    references = given_references(cfg.references)
    sampler = instantiate(cfg.sampler)
    tell_of_many_steps(bool(cfg.model.get("step_distilled")), sampler.num_steps)
    model, adapter = load_model(cfg, Console())
    images = draw(
        model,
        [prompt],
        references=references,
        num_images=count,
        adapter=adapter,
        sampler=sampler,
        guidance_scale=cfg.guidance_scale,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
    )
    for number, image in enumerate(images):
        print(save_png(image, folder / f"{number:03d}.png"))
    labels = [f"{prompt} ({number})" for number in range(count)]
    print(save_png(image_sheet(images, labels), folder / "sheet.png"))


def tell_of_many_steps(distilled: bool, num_steps: int) -> None:
    """Warn where a model that was made for a few steps is to draw in many."""
    if distilled and num_steps > MOST_FEW_STEPS:
        log.warning(
            "sampler.num_steps=%d, and the model was made for a few steps (model.step_distilled=true): draw "
            "in as many, as in sampler.num_steps=4",
            num_steps,
        )


def draw(
    model: PipelineModel,
    texts: Sequence[str],
    *,
    references: Sequence[Picture] = (),
    num_images: int,
    adapter: str | None,
    sampler: Sampler,
    guidance_scale: float,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Images of prompts; progress goes to standard error, as a script may read the paths on standard output.

    Args:
        model: The backbone with its adapters.
        texts: The prompts.
        references: Pictures that the model is shown beside each prompt.
        num_images: Of each; image ``i`` starts from the same noise for every prompt.
        adapter: Which one, or None for the backbone.
        sampler: Its own guidance scale is not used.
        guidance_scale: At least 0; 1 = no guidance.
        seed: Of the noise.
        batch_size: Images made together.

    Returns:
        ``(texts * num_images, 3, height, width)`` in [0, 1] on the CPU, prompt by prompt.

    Raises:
        ValueError: If a number is out of range, or there is no prompt.
    """
    import torch
    from rich.console import Console

    from diffopd.evaluation import ImageProgress, generate_batches
    from diffopd.types import Prompts

    _check_count(num_images)
    if not texts:
        raise ValueError("no prompt is given; give at least one")
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"prompts must be texts, got {wrong[0]!r}")
    if not 0 <= guidance_scale < math.inf:
        raise ValueError(f"guidance_scale={guidance_scale} must be a number from 0; 1 = no guidance")
    if not 0 <= seed <= SEEDS:
        raise ValueError(f"seed={seed} must be a whole number from 0 to {SEEDS}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    count = len(texts) * num_images
    prompts = Prompts(
        tuple(text for text in texts for _ in range(num_images)),
        ("sample",) * count,
        ({},) * count,
        tuple(range(num_images)) * len(texts),
        tuple(group for group in range(len(texts)) for _ in range(num_images)),
        references=(tuple(references),) * count,
    )
    batches = generate_batches(
        model,
        prompts,
        sampler=sampler,
        guidance_scale=guidance_scale,
        adapters=adapter,
        seed=seed,
        batch_size=batch_size,
    )
    parts = []
    with ImageProgress("drawing", count, console=Console(stderr=True)) as progress:
        for _, made in batches:
            parts.append(made)
            progress.advance(len(made))
    return torch.cat(parts)


def given_references(places: Any) -> list[Picture]:
    """The picture files that a model is to be shown.

    Args:
        places: Where they are, one or a list.

    Raises:
        ValueError: If one cannot be read or is too small, naming it.
    """
    from diffopd.data.reference_files import reference

    listed = [places] if isinstance(places, str | os.PathLike) else list(places or ())
    try:
        return [reference(Path(resolve_path(place))) for place in listed]
    except ValueError as error:
        raise ValueError(f"references: {error}") from error


def _check_count(num_images: int) -> None:
    if num_images < 1:
        raise ValueError(f"num_images={num_images} must be at least 1")


if __name__ == "__main__":
    main()
