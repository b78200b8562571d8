"""A base model and teachers on disk, and configs that name them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd.adapter import LoRA, add_adapter, save_adapter
from diffopd.model import SD3Model
from diffopd.teacher import Recipe, TeacherCard
from support.tiny_pipelines import TWO_PROJECTIONS, TinyPipeline, with_t5, without_t5

TASKS = ("composition", "ocr", "aesthetic")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyPipeline:
    return without_t5(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def other_architecture(tmp_path_factory) -> TinyPipeline:
    """A pipeline of other latent channels, patch size and depth of text."""
    return with_t5(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="session")
def teacher_folders(tiny, tmp_path_factory) -> Path:
    root, model = tmp_path_factory.mktemp("teachers"), SD3Model(**tiny.settings)
    for task in TASKS:
        config = LoRA(rank=4, alpha=8, init="gaussian", target_modules=TWO_PROJECTIONS, start=None)
        add_adapter(model.transformer, task, config, torch.Generator().manual_seed(0))
        save_adapter(model.transformer, task, root / task)
        TeacherCard(
            name=task,
            task=task,
            guidance_scale=1.0,
            base=model.identity,
            rank=4,
            alpha=8.0,
            scores={},
            recipe=Recipe(command="train", seed=1, minutes=2.5, images=6, reward_calls=6, commit="abc"),
        ).save(root / task)
    return root


@pytest.fixture(scope="session")
def on_disk(tiny, teacher_folders) -> list[str]:
    """Overrides that name the tiny model and its teachers."""
    return [f"model.path={tiny.folder}", *teacher_paths(teacher_folders)]


def teacher_paths(root: Path) -> list[str]:
    return [f"teacher.teachers.{task}.path={root / task}" for task in TASKS]


@pytest.fixture
def composed(conf_dir):
    """Compose a config from overrides."""

    def make(*overrides, config_name="train"):
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            return compose(config_name, overrides=list(overrides))

    return make
