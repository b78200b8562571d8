"""Teachers with random weights: what a round costs does not depend on their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, save_adapter
from diffopd.config.folder import config_folder
from diffopd.teacher import Recipe, TeacherCard

TASKS = ("composition", "ocr", "aesthetic")


def composed(name: str, overrides: list[str]) -> Any:
    """A config of the package."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(name, overrides=overrides)


def save_untrained(folder: Path) -> Path:
    """The embedded model's architecture with random weights."""
    instantiate(composed("pipeline/mini_untrained", ["+seed=0"]).pipeline).save_pretrained(folder)
    return folder


def save_teachers(folder: Path, model_overrides: list[str], guidance_scale: float) -> None:
    """One teacher for each task, in ``folder/<task>``."""
    cfg = composed("train", [*model_overrides, "adapter=lora_small", "paths.run=."])
    model = instantiate(cfg.model)
    adapter: LoRA = instantiate(cfg.adapter)
    for seed, task in enumerate(TASKS):
        generator = torch.Generator().manual_seed(seed)
        add_adapter(model.transformer, task, adapter, generator)
        for parameter in adapter_parameters(model.transformer, task).values():
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        save_adapter(model.transformer, task, folder / task)
        recipe = Recipe(
            command="benchmarks/random_teachers.py",
            seed=seed,
            minutes=0.0,
            images=0,
            reward_calls=0,
            commit="none",
        )
        TeacherCard(
            name=task,
            task=task,
            guidance_scale=guidance_scale,
            base=model.identity,
            rank=adapter.rank,
            alpha=float(adapter.alpha),
            scores={},
            recipe=recipe,
        ).save(folder / task)
