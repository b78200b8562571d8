"""Every family takes two updates of each way to learn from pictures, or says that it reads none."""

from __future__ import annotations

import math

import pytest

from diffopd.check import ConfigError
from support.slow import slow_but
from support.tiny_families import CLASSES
from support.tiny_runs import run_rounds

ANY = ("dreambooth_pairs", "pso_pairs", "sft_assistant")
SEEING = ("sft_teacher_samples", "offpolicy_pairs")
"""Those with a teacher that sees the picture."""
OTHERS = [name for name in CLASSES if name != "flux2_klein"]  # on which tests/test_experiments.py trains them
CASES = [(experiment, name) for experiment in ANY for name in OTHERS]
CASES += [(experiment, "z_image_turbo") for experiment in SEEING]
BLIND = [(experiment, name) for experiment in SEEING for name in ("sd3_5_medium", "flux1_dev", "qwen_image")]


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "name"), CASES)
def test_two_updates_on_pictures(world, tmp_path, experiment, name):
    run = run_rounds(
        world.build(f"{experiment}@{name}", tmp_path / "run", "sampler.num_steps=2"), student_seed=None
    )
    assert len(run.gradients) == 2
    assert all(run.flat_gradient(update).norm() > 0 for update in range(2))
    assert all(map(math.isfinite, run.metrics.values()))
    assert (tmp_path / "run" / "adapter").is_dir()


@pytest.mark.parametrize(("experiment", "name"), slow_but(BLIND, ("offpolicy_pairs", "flux1_dev")))
def test_a_family_that_reads_no_pictures_says_so(world, tmp_path, experiment, name):
    with pytest.raises(ConfigError, match=r"shows the teacher pictures, and model=\w+ reads none; choose"):
        world.build(f"{experiment}@{name}", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SEEING)
def test_a_family_that_reads_no_pictures_is_taught_by_better_captions(world, tmp_path, experiment):
    words = ("context=text", "context.key=long")
    run = run_rounds(
        world.build(f"{experiment}@sd3_5_medium", tmp_path / "run", "sampler.num_steps=2", *words)
    )
    assert len(run.gradients) == 2
