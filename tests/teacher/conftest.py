"""What tests of teachers share."""

from __future__ import annotations

import pytest

from diffopd.policy import Fixed


class Learner:
    """What a target needs of a phase."""

    def __init__(self, model):
        self.model = model
        self.student = self.average = Fixed(model, None)

    def conditioning(self, prompts):
        return self.model.condition(prompts)

    def add_policy(self, name):
        raise AssertionError("frozen teachers add none")

    def after_update(self, move):
        raise AssertionError("frozen teachers do not move")


@pytest.fixture
def learner():
    """``learner(model)`` makes what a target joins."""
    return Learner
