"""Every phase that trains a policy computes its rounds by fused blocks where they are asked for."""

from __future__ import annotations

import pytest

from support.fused_calls import count_fused
from support.interruption import metrics

EXPERIMENTS = (
    "mopd_ode",
    "teacher_aesthetic",
    "guard_aesthetic",
    "self_opd_aesthetic",
    "online_dpo_aesthetic",
    "mopd_dmd",
    "mopd_sft",
)


@pytest.fixture
def calls(monkeypatch):
    return count_fused(monkeypatch)


def losses(run):
    run.fit()
    rows = metrics(run.folder)
    return [float(value) for row in rows for key, value in row.items() if "/loss" in key]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_round_is_fused_and_has_the_same_losses(world, tmp_path, calls, experiment):
    few = ["sampler.num_steps=5"] if experiment in ("mopd_ode", "guard_aesthetic") else []
    common = ("trainer.max_epochs=1", "~report", "~benchmark", *few)
    theirs = losses(world.build(experiment, tmp_path / "stock", *common, "model.fused_blocks=null"))
    assert theirs
    assert not calls
    ours = losses(world.build(experiment, tmp_path / "fused", *common, "model.fused_blocks=fp32"))
    assert calls
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
