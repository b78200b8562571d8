"""Tiny pipelines for the teacher tests."""

from __future__ import annotations

import pytest

from diffopd.model import SD3Model
from support.tiny_pipelines import TinyPipeline, with_t5, without_t5


@pytest.fixture(scope="session", params=[without_t5, with_t5], ids=["without_t5", "with_t5"])
def tiny(request, tmp_path_factory) -> TinyPipeline:
    """Each of the two pipelines: the contract holds for both."""
    return request.param(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def model(tiny) -> SD3Model:
    return SD3Model(**tiny.settings)
