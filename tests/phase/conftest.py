"""Of tests that repeat one question for many phases and families, some are for `make test-all` alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.slow import mark_slow_but
from support.tiny_families import CLASSES

QUICK = {
    "test_two_updates": {
        *(f"{name}-sopd_aesthetic" for name in CLASSES if name != "sd3_5_medium"),  # what all others train
    },
    "test_interrupted_equals_uninterrupted": {"mopd_sde", "mini_pretrain", "dopsd"},
    "test_two_processes_equal_one": {"mopd_sde", "mini_pretrain"},
    "test_two_processes_equal_one_in_every_phase": {
        *("flow_opd", "mopd_dmd", "mopd_sft", "multi_guard", "dopsd", "dopsd adapter=whole"),
    },
    "test_four_processes_equal_one": {"mopd_sde"},
    "test_shards_have_the_gradients_of_the_whole_in_every_phase": {"guard_aesthetic", "mopd_dmd", "mopd_sft"},
    "test_an_update_of_distillation_in_fp16": {"sd3_5_medium", "qwen_image"},
    "test_a_nan_loss_stops_before_the_update_with_its_sample_and_can_be_done_again": {"distill", "dmd"},
    "test_two_updates_and_a_teacher_of_each_kind": {"z_image_turbo-ema"},
    "test_a_training_is_the_same_bit_for_bit": {"guard_aesthetic"},
    "test_an_average_that_never_moved_is_not_exported": {"6-student"},
    "test_the_checkpoint_before_a_damaged_one_is_used": {"truncated tensors", "killed while writing"},
    "test_all_weights_learn_and_the_base_model_stays": {"tdm"},  # the other tests of whole weights train opd
    "test_fused_and_two_pass_rounds_agree": {"0.7"},
    "test_sums_over_all_steps_give_the_papers_formula": {"0.7"},
    "test_any_number_of_teachers": {"1"},  # all others have three
    "test_micro_batches_change_nothing": {"0.7", "dmd"},
    "test_one_step_is_in_memory_at_a_time": {"fused"},
    "test_the_student_and_the_fake_score_alone_learn": {"dmd"},
    "test_student_updates_alone_are_counted": {"dmd"},
    "test_what_is_logged": {"dmd"},
    "test_tdm_matches_distributions_on_segments": {"random"},
    "test_equal_scores_teach_nothing": {"dmd"},
    "test_a_round_is_fused_and_has_the_same_losses": {"mopd_ode", "guard_aesthetic"},
    "test_captions_are_dropped_row_by_row": {"0.5-None"},
    "test_the_old_policy_follows_at_its_pace": {"settings1-decays1"},
    "test_the_second_order_history_reaches_the_loss": {"fused"},
    "test_the_other_methods_start_elsewhere": {"merged_svd"},
}
"""Test -> the ids of its parameters that are not for `make test-all` alone."""


@pytest.hookimpl(tryfirst=True)  # before those marked exhaustive are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow_but(items, Path(__file__).parent, QUICK)
