"""One tiny world for all tests of the phases."""

from __future__ import annotations

import pytest

from support.tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))
