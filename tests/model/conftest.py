"""Of tests that repeat one question for every family of models, some are for `make test-all` alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.slow import mark_slow_but

QUICK = {
    "test_checkpointing_changes_no_gradient": {"flux1_dev", "qwen_image"},
    "test_sample_and_evaluate_draw_with_every_family": {"flux2_klein", "qwen_image"},
    "test_attention_backends_are_those_of_diffusers": {"sd3_5_medium", "z_image"},
    "test_a_backbone_in_half_precision_keeps_adapters_and_velocities_in_fp32": {"flux1_dev", "z_image"},
    "test_a_backbone_in_fp16_loses_no_small_gradient": {"sd3_5_medium", "qwen_image"},
    "test_fp16_gradients_add_up_over_velocities_and_backwards": {"sd3_5_medium", "qwen_image"},
    "test_no_choice_of_adapters_compiles_anew": {"qwen_image-False", "sd3_5_medium-True", "flux2_klein-True"},
    "test_offloaded_encoders_stay_behind_and_encode_alike": {"flux1_dev", "qwen_image"},
}
"""Test -> its families that are not for `make test-all` alone. What a family draws stays for every one."""


@pytest.hookimpl(tryfirst=True)  # before those marked exhaustive are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow_but(items, Path(__file__).parent, QUICK)
