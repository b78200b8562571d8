"""``+experiment=dopsd`` and its baselines on a tiny pipeline and four pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.adapter import LoRA, add_adapter, save_adapter
from diffopd.config.folder import config_folder
from support.pictures import write_pairs
from support.tiny_families import Family, make_family
from support.tiny_runs import RUN, TASKS, randomise
from support.tiny_vision import seeing_family

SHOWN = ("dopsd", "dopsd_keep", "offpolicy_pairs", "sft_teacher_samples")
"""Experiments whose teacher sees the pictures."""
SMALL = (
    *("adapter.rank=2", "adapter.alpha=4", "phase.ema.update_interval=2", "optimizer.lr=1e-2"),
    *("callbacks.context_probe.num_pictures=2", "callbacks.context_probe.num_draws=1"),
    "callbacks.leak_test.templates=null",  # nothing is drawn; tests of leaks ask for it
)


@cache
def family_in(name: str, folder: Path) -> Family:
    """A tiny pipeline, made once; a Z-Image with its vision tower."""
    return seeing_family(folder / name) if name == "z_image_turbo" else make_family(name, folder / name)


def overrides_of(experiment: str, folder: Path, name: str) -> list[str]:
    """What makes an experiment small.

    Args:
        experiment: One of ``OF_PICTURES``, or the one that makes an assistant.
        folder: Where pipeline and pictures are made, if they are not there.
        name: Of the family.
    """
    family = family_in(name, folder)
    if experiment == "assistant":
        few = [f"data.tasks.{task}.prompts_per_round=1" for task in TASKS]
        return [*RUN, *family.overrides, "adapter.rank=2", "adapter.alpha=4", *few]
    pairs = folder / "pairs"
    if not pairs.is_dir():
        write_pairs(pairs)
    seen = ["domain.context.least_pixels=4096", "domain.context.most_pixels=4096"]
    seen = seen if name == "z_image_turbo" else []
    own = []
    if experiment == "dreambooth_pairs":
        own = ["phase.class_prompt=a thing", "phase.num_class_pictures=3"]
    if experiment == "dopsd_keep":
        own = ["data.keep.prompts_per_round=2"]
    if experiment == "sft_assistant":
        own = [f"phase.assistant={_assistant_in(name, folder)}"]
    data = [f"data.path={pairs}", "data.prompts_per_round=2"]
    return [*RUN, *family.overrides, *data, *SMALL, *(seen if experiment in SHOWN else []), *own]


@cache
def _assistant_in(name: str, folder: Path) -> Path:
    """A random adapter for the family."""
    family = family_in(name, folder)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("train", overrides=[*family.overrides, "paths.run=."])
    model = instantiate(cfg.model)
    shape = LoRA(rank=3, alpha=6, init="gaussian", target_modules=tuple(model.lora_modules), start=None)
    add_adapter(model.transformer, "assistant", shape, torch.Generator())
    randomise(model, "assistant", 5)
    return save_adapter(model.transformer, "assistant", folder / f"assistant_{name}")
