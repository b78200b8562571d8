"""The tiny world of the phases, and plans of its experiments."""

from __future__ import annotations

import pytest

from diffopd.check.values import plain_values
from diffopd.doctor.plan import Plan
from support.tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def plan(world, tmp_path):
    """``plan(experiment, *overrides)``: the plan of a tiny experiment."""

    def make(experiment: str, *overrides: str) -> Plan:
        return Plan.of(plain_values(world.config(experiment, tmp_path / "run", *overrides)))

    return make
