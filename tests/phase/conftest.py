"""Of the tests that repeat one question for many phases and families, some answers are for the slow suite."""

from __future__ import annotations

import pytest

from support.tiny_families import CLASSES

QUICK = {
    "test_two_updates": {
        *(f"{name}-sopd_aesthetic" for name in CLASSES),
        "flux2_klein-teacher_aesthetic",
        "qwen_image-guard_aesthetic",
    },
    "test_interrupted_equals_uninterrupted": {"mopd_sde", "guard_aesthetic", "mini_pretrain"},
    "test_two_processes_equal_one": {"mopd_sde", "guard_aesthetic", "mini_pretrain"},
    "test_two_processes_have_the_gradients_of_one": {"dmd"},
    "test_a_training_is_the_same_bit_for_bit": {"guard_aesthetic"},
    "test_an_average_that_never_moved_is_not_exported": {"6-student"},
    "test_the_checkpoint_before_a_damaged_one_is_used": {
        "truncated tensors",
        "flipped bit of the state",
        "killed while writing",
    },
}
"""Test -> the ids of its parameters that stay in the default suite."""


@pytest.hookimpl(tryfirst=True)  # before those marked slow are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        quick = QUICK.get(getattr(item, "originalname", ""))
        if quick is not None and item.path.parent.name == "phase" and item.callspec.id not in quick:
            item.add_marker(pytest.mark.slow)
