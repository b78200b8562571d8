import math

import pytest

from diffopd.callbacks import FiniteLoss, RoundCheckpoint
from diffopd.checkpoint import latest_valid_checkpoint
from diffopd.non_finite import NonFiniteError


def test_finite_losses_pass(fit, tiny_phase):
    phase = tiny_phase()
    fit(phase, [FiniteLoss(action="stop", max_skipped=5)], 3)
    assert len(phase.losses) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_in_the_round_with_a_report_and_saves_nothing(fit, tiny_phase, tmp_path, value):
    phase = tiny_phase(loss_at={2: value})
    checkpoint = RoundCheckpoint(
        folder=str(tmp_path), every_n_rounds=1, keep_last=9, keep_every_n_rounds=None
    )
    with pytest.raises(NonFiniteError) as caught:
        fit(phase, [FiniteLoss(action="stop", max_skipped=5), checkpoint], 6)
    assert len(phase.losses) == 3
    report = str(caught.value)
    assert "TinyPhase: loss is not finite in round 3 (optimizer step 6)" in report
    assert f"\n  loss = {value:g}\n" in report
    assert "\n  train/reward/ocr = 0.25\n" in report
    assert latest_valid_checkpoint(tmp_path) == tmp_path / "round_000002"


def test_a_loss_that_is_only_logged_is_checked_too(fit, tiny_phase):
    phase = tiny_phase(loss_at={1: math.nan})
    step = phase.training_step
    phase.training_step = lambda batch, batch_idx: step(batch, batch_idx) and None
    with pytest.raises(NonFiniteError, match=r"train/loss/total is not finite in round 2"):
        fit(phase, [FiniteLoss(action="stop", max_skipped=5)], 6)


def test_other_metrics_may_be_nan(fit, tiny_phase):
    phase = tiny_phase()
    phase.before_round = lambda i: phase.log("train/reward/undefined", math.nan, on_epoch=True)
    trainer = fit(phase, [FiniteLoss(action="stop", max_skipped=5)], 2)
    assert trainer.current_epoch == 2
    assert math.isnan(trainer.callback_metrics["train/reward/undefined"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "ignore", "max_skipped": 1}, "action=ignore must be one of stop, skip"),
        ({"action": "skip", "max_skipped": 0}, "max_skipped=0 must be at least 1"),
    ],
)
def test_its_settings_are_checked(unchecked_shapes, settings, message):
    with pytest.raises(ValueError, match=f"callbacks.finite_loss.{message}"):
        FiniteLoss(**settings)
