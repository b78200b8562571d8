"""The doctor knows a run whose model teaches itself."""

from __future__ import annotations

import pytest

from diffopd.check.values import plain_values
from diffopd.doctor.checks import early_findings
from diffopd.doctor.context import context_findings
from diffopd.doctor.finding import Level
from diffopd.doctor.measure import measure, trial
from diffopd.doctor.plan import Plan
from diffopd.doctor.prediction import Prediction


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


REFUSED = {"callbacks": {"context_probe": {"if_no_help": "refuse"}}}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "whole"])
def test_rounds_are_measured_with_the_teacher_and_what_is_encoded_once(world, tmp_path, adapter):
    chosen = ["adapter=whole"] if adapter == "whole" else []
    cfg = world.config("dopsd", tmp_path / "run", *chosen, "trainer.max_epochs=100")
    plan = Plan.of(plain_values(cfg))
    with trial(cfg, plan) as experiment:
        found = measure(experiment, plan)
        callbacks = experiment.trainer.callbacks
        context = list(context_findings(callbacks, plan.values))
        refused = [finding.level for finding in context_findings(callbacks, REFUSED)]
        student = experiment.phase.student.weights().values()
        size = sum(parameter.numel() * parameter.element_size() for parameter in student)
    parts = found.parts
    assert (parts["trained weights"], parts["gradients"], parts["averages of them"]) == (size, size, 2 * size)
    assert 2 * size <= parts["optimizer"] <= 2 * size + 8 * len(student)  # two means, and a step count each
    assert found.weight_bytes == parts["frozen weights"] + 3 * size
    *_, plain = found.rounds
    assert {"teachers", "backbone with gradient", "backward", "update"} <= plain.parts.keys()
    assert "backbone without gradient" not in plain.parts
    assert "text encoding" not in plain.parts
    prediction = Prediction.of(plan, found)
    assert prediction.seconds["encoding prompts"] == found.picture_seconds > 0
    assert {*parts, "activations and all else"} == prediction.memory.keys()
    assert [finding.level for finding in context] == [Level.WARNING]  # its weights are random
    assert context[0].text.startswith("the context does not help: the teacher's predicted clean latents are")
    assert refused == [Level.FAILURE]
