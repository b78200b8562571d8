"""A model with adapters, and its images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig

from diffopd.api.given import Place, listed
from diffopd.check import ConfigError, config_errors
from diffopd.command.called import call_command, compose_command
from diffopd.config.arguments import ADAPTER, hydra_arguments, quoted

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from diffopd.model import PipelineModel
    from diffopd.types import Sampler


@dataclass(frozen=True)
class Model:
    """A loaded model with its adapters and how it is sampled.

    Attributes:
        backbone: The model on its device, with the adapters on it.
        adapters: Their names.
        sampler: The sampler of :func:`sample_images`.
        guidance_scale: Guidance unless another is asked for; 1 = none.
    """

    backbone: PipelineModel
    adapters: tuple[str, ...]
    sampler: Sampler
    guidance_scale: float


def load_model(
    name: str = "mini_sd3",
    *,
    path: Place | None = None,
    adapter: Place | Mapping[str, Place] | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> Model:
    """A model on its device, with any number of adapters.

    Args:
        name: A file of ``conf/model``; ``mini_sd3`` is the embedded model.
        path: Where its pipeline lies, if not where that file says.
        adapter: A LoRA in any format or a whole transformer of the same architecture; or several by name.
        device: ``auto`` = a GPU if there is one; or ``cpu``, ``cuda:1``, ``mps``.
        overrides: Of ``conf/sample.yaml``, e.g. ``["sampler.num_steps=28", "model.dtype=bf16"]``.

    Returns:
        The model. A single adapter is called ``student``.

    Raises:
        ConfigError: If there is no such model, or an adapter does not fit, found before weights load.
    """
    from diffopd.build.trained_model import ADAPTER as STUDENT
    from diffopd.build.trained_model import load_with_adapters

    if adapter is not None and not isinstance(adapter, (str, os.PathLike, Mapping)):
        raise ConfigError(
            f"adapter={adapter!r} must be a path, or several by name, as in "
            '{"teacher": "package://assets/teachers/ocr"}'
        )
    if adapter is None:
        places: dict[str, str] = {}
    elif isinstance(adapter, Mapping):
        places = {key: os.fspath(value) for key, value in adapter.items()}
    else:
        places = {STUDENT: os.fspath(adapter)}
    given = [f"model={name}", "prompt=", f"device={device}"]
    given += [] if path is None else [f"model.path={quoted(os.fspath(path))}"]
    cfg = compose_command("sample", [*given, *listed(overrides)], arguments=hydra_arguments, short=ADAPTER)
    loaded: list[Model] = []

    @config_errors()
    def load(cfg: DictConfig) -> None:
        from hydra.utils import instantiate
        from rich.console import Console

        sampler = instantiate(cfg.sampler)
        backbone = load_with_adapters(cfg, places, Console(stderr=True))
        loaded.append(Model(backbone, tuple(places), sampler, float(cfg.guidance_scale)))

    call_command(load, cfg, "sample", short=ADAPTER)
    return loaded[0]


def sample_images(
    model: Model,
    prompts: str | Sequence[str],
    *,
    references: Place | Sequence[Place] = (),
    num_images: int = 1,
    adapter: str | Literal["auto"] | None = "auto",
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """Images of prompts, as ``diffopd sample`` makes them.

    Image ``i`` of a seed starts from the same noise for every prompt and adapter, so models can be compared
    image by image.

    Args:
        model: Of :func:`load_model`.
        prompts: One or several.
        references: Picture files that the model is shown beside each prompt, if it edits.
        num_images: Of each prompt, from different noise.
        adapter: Name of one of the model's adapters; ``auto`` = its only one, or none if it has none; None =
            the base model.
        guidance_scale: At least 0, 1 = none; None = the model's.
        seed: Of the noise.
        batch_size: Images made together.

    Returns:
        Float tensor ``(prompts * num_images, 3, height, width)`` in [0, 1] on the CPU, prompt by prompt.

    Raises:
        ValueError: If there is no such adapter, a number is out of range, or a picture cannot be read.
    """
    from diffopd.sample import draw, given_references

    if adapter == "auto":
        if len(model.adapters) > 1:
            raise ValueError(f"adapter: the model has several, name one of {', '.join(model.adapters)}")
        adapter = next(iter(model.adapters), None)
    elif adapter is not None and adapter not in model.adapters:
        there = ", ".join(model.adapters) or "none"
        raise ValueError(f"adapter={adapter}: the model has {there}; load it with load_model(adapter=...)")
    return draw(
        model.backbone,
        list(prompts) if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [prompts],
        references=given_references(references),
        num_images=num_images,
        adapter=adapter,
        sampler=model.sampler,
        guidance_scale=model.guidance_scale if guidance_scale is None else guidance_scale,
        seed=seed,
        batch_size=batch_size,
    )


def image_sheet(images: Tensor, labels: Sequence[str], *, num_columns: int = 6) -> Image:
    """Images in reading order on one sheet, each with its label below; small ones are enlarged.

    Args:
        images: ``(batch, 3, height, width)`` in [0, 1].
        labels: One per image.
        num_columns: Images in a row.

    Returns:
        A picture, which a notebook shows and ``.save("sheet.png")`` writes.
    """
    from diffopd.files.grid import image_sheet as sheet_of

    return sheet_of(images, labels, num_columns=num_columns)
