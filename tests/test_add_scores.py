"""Scores go from an evaluation into a card with all that a table takes from there."""

from __future__ import annotations

import dataclasses
import json

import pytest

from diffopd.report.run.known_scores import base_held_out, base_scores
from diffopd.teacher import HeldOut, Recipe, TeacherCard
from support.run_folders import result
from support.scripts import experiment_script

RECIPE = Recipe(command="train", seed=0, minutes=1.0, images=6, reward_calls=6, commit="0" * 7)
DISTANCE = {"frechet": {"frechet_distance": 1.5, "num_images": 64.0}}


@pytest.fixture(scope="module")
def script():
    return experiment_script("add_scores")


def measured(adapter):
    return dataclasses.replace(
        result({"ocr": 0.5}, held_out=DISTANCE),
        adapter=adapter,
        held_out_better={"frechet": "lower"},
        held_out_conditions={"frechet": {"seed": 0}},
    )


EXPECTED = {"frechet": HeldOut(value=1.5, n=64, better="lower", conditions={"seed": 0})}


def test_a_base_keeps_them_by_guidance(script, tmp_path):
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"scores": {"guidance 2": {"mini": {}}}}))  # of before
    script.add_scores(measured(None).save(tmp_path / "r.json"), card)
    assert base_held_out(str(tmp_path), "mini", 1.0) == EXPECTED
    assert base_scores(str(tmp_path), "mini", 1.0)["ocr"].mean == pytest.approx(0.5)
    assert json.loads(card.read_text())["scores"]["guidance 2"] == {"mini": {}}


def test_a_teacher_that_a_run_saved_can_be_read_again(script, tmp_path):
    before = TeacherCard(
        name="ocr",
        task="ocr",
        guidance_scale=1.0,
        base="base",
        rank=2,
        alpha=4.0,
        scores={},
        recipe=RECIPE,
    )
    card = before.save(tmp_path)
    script.add_scores(measured("ocr").save(tmp_path / "r.json"), card)
    after = TeacherCard.load(tmp_path)  # with a checksum, which is right
    assert after.held_out == {"mini": EXPECTED}
    assert set(after.scores["mini"]) == {"ocr"}
    assert "checksum" in json.loads(card.read_text())
    other = dataclasses.replace(measured("ocr"), guidance_scale=2.0).save(tmp_path / "other.json")
    with pytest.raises(SystemExit, match="scored at another guidance"):
        script.add_scores(other, card)
