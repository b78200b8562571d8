"""Mutated configs run or are refused in the user's words; `make fuzz` tries many more."""

from __future__ import annotations

import pytest

from support.fuzz.campaign import run, table
from support.fuzz.mutation import Case
from support.fuzz.outcome import outcome_of


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("count", "seed"), [(7, 1), pytest.param(50, 0, marks=pytest.mark.slow)])
def test_every_mutated_config_runs_or_is_refused(world, tmp_path, count, seed):
    outcomes = run(count, seed, world, tmp_path)
    assert len(outcomes) == count
    others = [
        f"{o.case.experiment} {' '.join(o.case.changes)}\n{o.text}" for o in outcomes if o.kind == "other"
    ]
    assert not others, "\n\n".join(others)
    assert any(outcome.kind == "ran" for outcome in outcomes), table(outcomes)
    assert any(outcome.kind == "refused" for outcome in outcomes), table(outcomes)


FOUND = [
    ("mopd_ode", "loss=7"),
    ("mopd_ode", "routing._target_=[a,b]"),
    ("guard_aesthetic", "callbacks.finite_loss=${phase}"),
    ("mini_autoencoder", "~callbacks.adapter_export._target_"),
    ("gradient_variance", "phase.estimators.ppo_mean=false"),
    ("mini_more_signs", "trainer.default_root_dir=${seed}"),
    ("mopd_dmd", "phase.fake_optimizer=group"),
    ("guard_ocr", "optimizer.lr={}"),
    ("mini_signs", "phase._target_=${seed}"),
    ("mopd_ode", "+logger.no_such_setting=1"),
    ("guard_composition", "benchmark.tasks.ocr.metric._target_=[null]"),
    ("mini_autoencoder", "phase._partial_='1'"),
    ("flow_opd", "teacher.teachers.ocr.guidance_scale=text"),
    ("flow_opd", "loss@regulariser.loss=tdm"),
    ("multi_guard", "phase=[1,2]"),
    ("dance_opd", "estimator=[null]"),
    ("mini_more_signs", "~optimizer.momentum"),
    ("guard_aesthetic", "~phase.noise_window.first"),
    ("teacher_ocr", "reward@phase.held_out.spectrum=remote"),
]
"""What fuzzing found that ended in a traceback once."""


@pytest.mark.parametrize(("experiment", "change"), FOUND)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_was_found_is_refused(world, tmp_path, experiment, change):
    at_once = ("phase.held_out.spectrum.retries=0",) if change.endswith("=remote") else ()
    outcome = outcome_of(Case(experiment, (change, *at_once)), world, tmp_path / "case")
    assert outcome.kind == "refused", outcome.text
