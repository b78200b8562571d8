"""Plans of the tiny world's experiments."""

from __future__ import annotations

import pytest

from diffopd.check.values import plain_values
from diffopd.doctor.plan import Plan


@pytest.fixture
def plan(world, tmp_path):
    """``plan(experiment, *overrides)``: the plan of a tiny experiment."""

    def make(experiment: str, *overrides: str) -> Plan:
        return Plan.of(plain_values(world.config(experiment, tmp_path / "run", *overrides)))

    return make
