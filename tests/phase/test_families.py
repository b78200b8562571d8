"""Every family takes two updates of distillation, DiffusionNFT and policy gradient in the real phases."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.adapter import LoRA, add_adapter, save_adapter
from diffopd.build.experiment import build
from diffopd.config.folder import config_folder
from diffopd.teacher import Recipe, TeacherCard
from support.tiny_families import FAMILIES, Family, make_family
from support.tiny_runs import RUN, randomise, run_rounds

SMALL = (
    "adapter.rank=2",
    "adapter.alpha=4",
    "sampler.num_steps=3",
    "data.tasks.aesthetic.prompts_per_round=2",
    "phase.updates_per_round=1",
    "phase.conflict_every_n_rounds=0",
)
RUNS = {
    "sopd_aesthetic": ("data.tasks.aesthetic.group_size=1", "phase.score_every_n_rounds=1"),
    "teacher_aesthetic": ("data.tasks.aesthetic.group_size=3", "phase.num_timesteps=2"),
    "guard_aesthetic": ("data.tasks.aesthetic.group_size=3",),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Family:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


def composed(family: Family, folder: Path, *overrides: str):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(
            "train",
            overrides=[*family.overrides, *RUN, f"paths.run={folder}", f"paths.root={folder}", *overrides],
        )


def save_teacher(family: Family, folder: Path) -> Path:
    """A random teacher, guided where the family can be."""
    model = instantiate(composed(family, folder).model)
    lora = LoRA(rank=3, alpha=6, init="gaussian", target_modules=model.lora_modules, start=None)
    add_adapter(model.transformer, "teacher", lora, torch.Generator())
    randomise(model, "teacher", 1)
    save_adapter(model.transformer, "teacher", folder)
    TeacherCard(
        name="aesthetic",
        task="aesthetic",
        guidance_scale=1.0 if model.step_distilled else 3.0,
        base=model.identity,
        rank=3,
        alpha=6.0,
        scores={},
        recipe=Recipe(command="none", seed=0, minutes=0.0, images=6, reward_calls=6, commit="none"),
    ).save(folder)
    return folder


@pytest.mark.slow
def test_an_update_of_distillation_in_fp16(family, tmp_path):
    """The backbone alone is in half precision: adapters, their gradients and the step are fp32."""
    experiment = "sopd_aesthetic"
    overrides = [f"+experiment={experiment}", *SMALL, *RUNS[experiment], "trainer.max_epochs=1"]
    overrides.append(f"teacher.teachers.aesthetic.path={save_teacher(family, tmp_path / 'teacher')}")
    run = run_rounds(build(composed(family, tmp_path / "run", *overrides, "model.dtype=fp16")))
    (gradient,) = (run.flat_gradient(update) for update in range(len(run.gradients)))
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.norm() > 0
    assert all(map(math.isfinite, run.metrics.values()))


@pytest.mark.parametrize("experiment", RUNS)
def test_two_updates(family, tmp_path, experiment):
    overrides = [f"+experiment={experiment}", *SMALL, *RUNS[experiment]]
    if experiment == "sopd_aesthetic":
        overrides.append(f"teacher.teachers.aesthetic.path={save_teacher(family, tmp_path / 'teacher')}")
    run = run_rounds(build(composed(family, tmp_path / "run", *overrides)))
    assert len(run.gradients) == 2
    assert all(run.flat_gradient(update).norm() > 0 for update in range(2))
    assert all(map(math.isfinite, run.metrics.values()))
    if experiment == "guard_aesthetic":  # rollout and training see the same policy
        assert run.metrics["train/ratio/step_0"] == pytest.approx(1, abs=1e-4)
