"""What commands that make images share: a model on its device with an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from diffopd.adapter import find_card
from diffopd.host.device import device_of_model
from diffopd.host.quiet import silence_known_noise
from diffopd.model import PipelineModel, read_transformer_config
from diffopd.run.trained import adapter_of
from diffopd.teacher import TeacherCard, check_frozen, load_frozen
from diffopd.weights.hub import tell_at_once

ADAPTER = "student"
"""Name under which the adapter lies on the model."""


def load_model(cfg: DictConfig, console: Console) -> tuple[PipelineModel, str | None]:
    """The model on its device, and the name of the adapter on it.

    Args:
        cfg: Has ``model``, ``adapter_path`` (a LoRA, a whole transformer, a checkpoint, a run, or null),
            ``device`` and ``guidance_scale``.
        console: Where to say that an adapter was trained for other settings than these.

    Returns:
        The model, and None for an adapter if there is none.

    Raises:
        ValueError: If the adapter does not fit; this is found before weights load.
    """
    adapters = {} if cfg.adapter_path is None else {ADAPTER: cfg.adapter_path}
    return load_with_adapters(cfg, adapters, console), next(iter(adapters), None)


def load_with_adapters(cfg: DictConfig, adapters: Mapping[str, str], console: Console) -> PipelineModel:
    """The same with any number of adapters.

    Args:
        cfg: Has ``model``, ``device`` and ``guidance_scale``.
        adapters: Name on the model -> a LoRA, a whole transformer, a checkpoint or a run.
        console: Where to say that an adapter was trained for other settings than these.

    Raises:
        ValueError: If an adapter does not fit; this is found before weights load.
    """
    silence_known_noise()
    tell_at_once()
    device = device_of_model(cfg.device)
    adapters = {name: adapter_of(path, setting="adapter") for name, path in adapters.items()}
    if adapters:
        base_config = read_transformer_config(cfg.model.path, cfg.model.revision)
        for path in adapters.values():
            check_frozen(path, base_config, setting="adapter")
    model: PipelineModel = instantiate(cfg.model)
    for name, path in adapters.items():
        load_frozen(cast(Any, model), name, path, setting="adapter")
        _compare_with_card(path, model, cfg.guidance_scale, console)
    return model.to(device)


@torch.no_grad()
def trial_step(model: PipelineModel, batch_size: int = 32) -> None:
    """A forward of the backbone without effects, to time."""
    latent = torch.zeros(batch_size, *model.latent_shape, device=model.device)
    conditioning = model.encode([""] * batch_size)
    model.velocity(latent, torch.ones(batch_size, device=model.device), conditioning)


def _compare_with_card(path: str, model: PipelineModel, guidance_scale: float, console: Console) -> None:
    place = find_card(path)
    if place is None:
        return
    card = TeacherCard.load(place.parent, setting="adapter")
    if card.base != model.identity:
        console.print(
            f"note: adapter={path} was trained on another base model ({card.base[:12]}, this one is "
            f"{model.identity[:12]}); expect poor images"
        )
    if card.guidance_scale != guidance_scale:
        console.print(
            f"note: the adapter was trained for guidance {card.guidance_scale:g}, these images use "
            f"{guidance_scale:g}; guidance_scale={card.guidance_scale:g} uses the one it was trained for"
        )
