"""A student that starts as its only teacher has nothing to learn, which is warned of."""

from __future__ import annotations

import pytest

from diffopd.doctor.finding import Level
from diffopd.doctor.own_teacher import own_teacher_findings


@pytest.mark.parametrize(
    ("experiment", "overrides", "warned"),
    [
        ("absorb_composition", ["teacher.teachers.composition.guidance_scale=1"], True),
        ("absorb_composition", ["teacher.teachers.composition.guidance_scale=null"], True),
        ("absorb_composition", ["teacher.teachers.composition.guidance_scale=2"], False),
        (
            "absorb_composition",
            ["adapter.start=null", "teacher.teachers.composition.guidance_scale=1"],
            False,
        ),
        ("sopd_composition", [], False),
        ("mopd_ode", [], False),
    ],
)
def test_a_student_that_is_its_own_teacher(plan, experiment, overrides, warned):
    values = plan(experiment, *overrides).values
    assert values["sampler"]["guidance_scale"] == 1
    found = list(own_teacher_findings(values))
    assert [finding.level for finding in found] == [Level.WARNING] * warned
    if warned:
        assert "so its loss and gradient are 0" in found[0].text


def test_its_loss_is_0_indeed(world, tmp_path):
    own = "teacher.teachers.composition.guidance_scale=1"
    experiment = world.build("absorb_composition", tmp_path / "run", own, "trainer.max_epochs=1")
    experiment.fit()
    logged = {name: value.item() for name, value in experiment.trainer.callback_metrics.items()}
    assert logged["train/gradient_norm"] == 0
