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


@pytest.fixture
def learner():
    """``learner(model)`` makes what a target joins."""
    return Learner
