"""Tiny pipelines for the teacher tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffopd.policy import Fixed

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_pipelines import TinyPipeline, with_t5, without_t5

from diffopd.model import SD3Model


@pytest.fixture(scope="session", params=[without_t5, with_t5], ids=["without_t5", "with_t5"])
def tiny(request, tmp_path_factory) -> TinyPipeline:
    """Each of the two pipelines: the contract holds for both."""
    return request.param(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def model(tiny) -> SD3Model:
    return SD3Model(**tiny.settings)


class Learner:
    """What a target needs of a phase."""

    def __init__(self, model):
        self.model = model
        self.student = self.average = Fixed(model, None)

    def conditioning(self, prompts):
        return self.model.condition(prompts)


@pytest.fixture
def learner():
    """``learner(model)`` makes what a target joins."""
    return Learner
