"""Models of tiny families through the same configs as on the command line."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from diffopd.adapter import LoRA, adapter_parameters, add_adapter
from diffopd.config.folder import config_folder
from diffopd.model import PipelineModel
from support.tiny_families import Family

# Of different lengths: some families give each prompt its own number of tokens.
TEXTS = ["a red cat", 'a sign that says "dog"', "a"]


def composed(family: Family, *overrides: str) -> DictConfig:
    """What ``python -m diffopd.sample`` would be told; only the pipeline and its sizes are changed."""
    settings = ["prompt=x", "sampler=flow", "sampler.num_steps=4", "sampler.noise_level=0"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("sample", overrides=[*family.overrides, *settings, "paths.run=.", *overrides])


def load(family: Family, *overrides: str) -> PipelineModel:
    return instantiate(composed(family, *overrides).model)


def add_noisy_adapter(
    model: PipelineModel,
    name: str,
    seed: int,
    *,
    rank: int | None = None,
    alpha: float = 5,
    layers: Sequence[str] | None = None,
) -> None:
    """An adapter that changes the output clearly; without ``layers`` on those of the family's adapters."""
    generator = torch.Generator().manual_seed(seed)
    lora = LoRA(
        rank=rank or 2 + seed,
        alpha=alpha,
        target_modules=layers or model.lora_modules,
        init="gaussian",
        start=None,
    )
    add_adapter(model.transformer, name, lora, generator)
    with torch.no_grad():
        for parameter in adapter_parameters(model.transformer, name).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def states(model: PipelineModel, size: int = 4):
    latent = torch.randn(size, *model.latent_shape, generator=torch.Generator().manual_seed(11))
    texts = [TEXTS[row % len(TEXTS)] + "x" * row for row in range(size)]
    return latent, torch.linspace(0.9, 0.2, size), model.encode(texts)
