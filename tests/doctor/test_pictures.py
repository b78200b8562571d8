"""Rewards and prompts against the size of the pictures, and the average against the number of updates."""

import pytest

from diffopd.doctor.checks import average_findings
from diffopd.doctor.pictures import picture_findings


def found(plan, *overrides):
    return [finding.text for finding in picture_findings(plan(*overrides).values)]


def test_experiments_suit_the_embedded_model(plan):
    for experiment in ("mopd_ode", "teacher_ocr", "guard_ocr", "teacher_composition", "multi_nft"):
        assert found(plan, experiment) == [], experiment


LARGE = ("model.image_size=512",)


def test_drawn_rewards_and_prompts_do_not_suit_large_pictures(plan):
    texts = found(plan, "teacher_ocr", *LARGE)
    assert any(
        "reward.recognizer.detect=false reads a whole picture of 512 pixels as one line" in t for t in texts
    )
    texts = found(plan, "teacher_ocr", *LARGE, "data.tasks.ocr.path=package://assets/prompts/ocr/train.txt")
    assert any("data.tasks (ocr) has prompts of the embedded model's drawings" in text for text in texts)
    texts = found(plan, "mopd_ode", *LARGE)
    assert any("reward.rewards.composition.detector reads shapes of drawings" in text for text in texts)
    assert any("reward.rewards.aesthetic.rewards.contrast judges drawings" in text for text in texts)
    assert any(text.startswith("benchmark.tasks (composition, ocr, aesthetic)") for text in texts)


def test_a_reader_of_lines_does_not_suit_small_drawings(plan):
    (text,) = found(plan, "teacher_ocr", "reward.recognizer.detect=true")
    assert "reward.recognizer.detect=true and upscale=2 can read little text in pictures of 32 pixels" in text


@pytest.mark.parametrize(
    ("experiment", "overrides", "warns"),
    [
        ("mopd_ode", ("trainer.max_epochs=1",), False),
        ("mopd_ode", ("trainer.max_epochs=6", "phase.ema.update_interval=8"), True),
        ("mopd_ode", ("trainer.max_epochs=7", "phase.ema.update_interval=8"), False),
        ("teacher_ocr", ("trainer.max_epochs=1", "phase.ema.update_interval=8"), True),
        ("mini_pretrain", ("trainer.max_epochs=1",), False),
    ],
)
def test_an_average_that_never_moves_is_told(plan, experiment, overrides, warns):
    texts = [finding.text for finding in average_findings(plan(experiment, *overrides))]
    assert len(texts) == warns
    assert not warns or "so the student itself is exported" in texts[0]
