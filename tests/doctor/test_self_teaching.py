"""The doctor knows a run whose model teaches itself."""

from __future__ import annotations

from diffopd.check.values import plain_values
from diffopd.doctor.checks import early_findings
from diffopd.doctor.finding import Level
from diffopd.doctor.plan import Plan


def test_the_plan_says_who_teaches_and_what_it_is_told(world, tmp_path):
    def lines(*overrides):
        plan = Plan.of(plain_values(world.config("dopsd", tmp_path / "run", *overrides)))
        assert not [found for found in early_findings(plan) if found.level == Level.FAILURE]
        return dict(plan.lines())

    told = lines()
    average = "average of the student, decay 0.9999 in fp32"
    assert told["teacher"] == f"the model itself ({average}), told more by context=reference"
    assert told["task pictures"] == "4 pictures, 2 per round, group size 1"
    assert "reward" not in told
    frozen = lines("teacher.weights=frozen", "context=text", "context.key=long")
    assert frozen["teacher"] == "the model itself (frozen), told more by context=text"
