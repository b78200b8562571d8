"""Prompts of what a model is to keep, beside pictures: their teacher is told what the student is told."""

from __future__ import annotations

import pytest
import torch

from diffopd.build.experiment import build
from diffopd.check import ConfigError
from diffopd.check.values import plain_values
from diffopd.context import Reference, told_by
from diffopd.doctor.cost import rows_of
from diffopd.doctor.plan import Plan
from diffopd.run.inputs import inputs_of
from diffopd.types import KEPT, Picture, Prompts
from support.tiny_runs import run_rounds

PICTURE = Picture("a.png", "aa", 32, 32)


@pytest.fixture
def keep(tmp_path):
    """A file of prompts, and the setting that names it."""
    file = tmp_path / "kept.txt"
    file.write_text("a lighthouse\na blue square\na red circle\n")
    return f"data.keep.path={file}"


def test_a_teacher_is_told_more_of_the_other_rows_alone():
    rows = Prompts(
        ("one", "kept", "two"), ("t", KEPT, "t"), ({},) * 3, (0, 1, 2), (0, 1, 2), (PICTURE, None, PICTURE)
    )
    context = Reference(template="{caption}, as shown")
    told = told_by(context, rows)
    assert told.texts == ("one, as shown", "kept", "two, as shown")
    assert told.references == ((PICTURE,), (), (PICTURE,))
    assert told.indices == rows.indices
    kept = rows.select([1])
    assert told_by(context, kept) == kept
    pictures = rows.select([0, 2])
    assert told_by(context, pictures) == context(pictures)
    with pytest.raises(ValueError, match="there is none for 'kept'; choose data=pairs"):
        context(rows)


def test_a_round_has_rows_of_both_and_one_model_that_is_told_the_same_has_no_loss(world, tmp_path, keep):
    few = [keep, "data.keep.prompts_per_round=2", "trainer.max_epochs=2", "teacher.weights=live"]
    run = build(world.config("dopsd", tmp_path / "run", *few))
    batch = run.data.batch(0)
    assert batch.tasks == ("pictures", "pictures", KEPT, KEPT)
    assert [target is None for target in batch.targets] == [False, False, True, True]
    assert batch.indices == (0, 1, 2, 3)
    passes = [run.data.batch(number).texts[2:] for number in range(3)]
    assert sorted(text for texts in passes for text in texts) == sorted(
        2 * ["a blue square", "a lighthouse", "a red circle"]
    )
    losses = []
    phase = run.phase
    loss = phase.loss

    def noted(student, target):
        found = loss(student, target)
        losses.append((target - student.velocity).detach().flatten(1).norm(dim=1))
        return found

    phase.loss = noted
    rounds = run_rounds(run)
    first = torch.cat(losses[: phase.sampler.num_steps]).reshape(phase.sampler.num_steps, -1)
    assert first[:, :2].min() > 1e-3
    assert first[:, 2:].max() < 1e-6 * max(1.0, first.max().item())
    assert rounds.metrics["train/gap/pictures"] > 0


@pytest.mark.parametrize(
    ("experiment", "more", "message"),
    [
        ("sft_pairs", [], r"has prompts kept by a model that is its own teacher, and there is none"),
        ("offpolicy_pairs", [], r"phase\.states_from=pictures takes its states from pictures; set"),
        ("dopsd", ["data.task=kept"], r"data\.task=kept is the name of the prompts of data\.keep"),
        ("dopsd", ["data.keep.path=absent.txt"], r"data\.keep\.path=absent\.txt"),
    ],
)
def test_what_cannot_keep_prompts_is_refused(world, tmp_path, keep, experiment, more, message):
    with pytest.raises(ConfigError, match=message):
        build(world.config(experiment, tmp_path / "run", keep, *more))


def test_the_plan_of_a_run_counts_them(world, tmp_path, keep):
    """Several files are one task; rows of a round are those of pictures and of kept prompts."""
    more = tmp_path / "more.txt"
    more.write_text("a ring\n")
    both = f"data.keep.path=[{keep.partition('=')[2]},{more}]"
    cfg = world.config("dopsd", tmp_path / "run", both, "data.keep.prompts_per_round=3")
    values = plain_values(cfg)
    plan = Plan.of(values)
    assert [(task.task, task.number) for task in plan.tasks] == [("pictures", 4), (KEPT, 4)]
    assert rows_of(values, 0) == 2 + 3
    inputs = inputs_of(values, ["teacher"])
    more.write_text("a cross\n")
    assert inputs_of(values, ["teacher"])["data.keep.path"] != inputs["data.keep.path"]
    assert inputs_of(values, ["teacher"])["data.path"] == inputs["data.path"]


@pytest.mark.parametrize("family", ["flux2_klein", "z_image_turbo"])
def test_two_updates_where_one_batch_has_rows_with_and_without_pictures(world, tmp_path, family):
    run = world.build(f"dopsd_keep@{family}", tmp_path / "run", "trainer.max_epochs=2")
    rounds = run_rounds(run)
    assert rounds.metrics["train/gap/kept"] >= 0
    assert rounds.flat_gradient().norm() > 0
