"""A training that leaves out a full last step, or its noise in it, is told so."""

import pytest

from diffopd.doctor.finding import Level
from diffopd.doctor.last_step import last_step_findings

Z_IMAGE = "{_target_: diffopd.flow.ConstantShift, shift: 6.0}"
TEN = ("sampler.num_steps=10",)


def found(plan, experiment, *overrides):
    return list(last_step_findings(plan(experiment, *TEN, *overrides).values))


def test_the_grid_of_stable_diffusion_3_ends_in_an_empty_step(plan):
    assert found(plan, "mopd_ode") == []
    assert found(plan, "guard_aesthetic") == []


def test_states_that_leave_out_a_full_step(plan):
    (finding,) = found(plan, "mopd_ode", f"model.shift={Z_IMAGE}")
    assert finding.level == Level.WARNING
    # Evenly spread levels end at 0.1; 6 * 0.1 / (1 + 5 * 0.1) = 0.4.
    assert finding.text == (
        "states.last=-2 leaves the end of the rollout untrained, which is a full step on this model's grid: "
        "step 9 (counted from 0) goes from sigma 0.40 to 0; choose states=all"
    )
    assert found(plan, "mopd_ode", f"model.shift={Z_IMAGE}", "states=all") == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ((), ["phase.train_steps=all_but_last", "sampler.noise_level=0.7"]),
        (("phase.train_steps=all",), ["sampler.noise_level=0.7"]),
        (("phase.train_steps=all", "sampler=cps"), []),
        (("phase.train_steps=all", "phase.noise_window.size=3"), []),
    ],
)
def test_policy_gradients_on_a_grid_with_a_full_last_step(plan, overrides, named):
    texts = [finding.text for finding in found(plan, "guard_aesthetic", f"model.shift={Z_IMAGE}", *overrides)]
    assert len(texts) == len(named)
    assert all(text.startswith(name) for text, name in zip(texts, named, strict=True))
