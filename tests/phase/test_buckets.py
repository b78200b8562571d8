"""A round with pictures of several shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.pictures import picture_file
from support.tiny_runs import relative_distance, run_rounds

SHAPES = ((64, 64), (60, 100), (100, 60), (60, 100))


@pytest.fixture
def pairs(tmp_path):
    """A folder of four pictures."""
    for number, (height, width) in enumerate(SHAPES):
        name = Path(picture_file(tmp_path / "pairs", number, height, width).path).stem
        (tmp_path / "pairs" / f"{name}.txt").write_text(f"thing {number}")
    return tmp_path / "pairs"


def test_a_model_that_teaches_itself_rolls_out_at_each_picture_s_shape(world, tmp_path, pairs):
    """Together or one by one, the rows' gradients are the same."""
    settings = (
        f"data.path={pairs}",
        "data.bucket_step=16",
        "data.prompts_per_round=4",
        "trainer.max_epochs=1",
    )
    runs = [
        world.build("dopsd", tmp_path / f"run{size}", *settings, f"phase.micro_batch_size={size}")
        for size in ("null", 1)
    ]
    prompts, phase = runs[0].data.batch(0), runs[0].phase
    assert {target.size for target in prompts.targets} == {(64, 64), (48, 80), (80, 48)}
    together = [len(rows) for rows in phase.micro_batches(prompts)]
    assert sorted(together) == [1, 1, 2]
    shapes = {phase.noise("x", prompts.select(rows)).shape[1:] for rows in phase.micro_batches(prompts)}
    assert {(height, width) for _, height, width in shapes} == {(4, 4), (3, 5), (5, 3)}
    rounds = [run_rounds(run) for run in runs]
    assert rounds[0].flat_gradient().norm() > 0
    assert relative_distance(rounds[1].flat_gradient(), rounds[0].flat_gradient()) < 1e-5
    assert rounds[1].metrics["train/loss/opd"] == pytest.approx(rounds[0].metrics["train/loss/opd"], rel=1e-5)


def test_square_pictures_go_together_as_prompts_do(world, tmp_path):
    run = world.build("sft_pairs", tmp_path / "run", "data.prompts_per_round=4", "phase.micro_batch_size=3")
    prompts = run.data.batch(0)
    assert run.phase.micro_batches(prompts) == run.phase.micro_batches(len(prompts)) == [[0, 1, 2], [3]]
