"""A cascade's table: stages that were scored with other settings do not stand in it."""

from __future__ import annotations

import dataclasses

from diffopd.report.run.cascade import report_cascade
from diffopd.teacher import HeldOut, Recipe, Score, TeacherCard

RECIPE = Recipe(command="train", seed=0, minutes=1.0, images=6, reward_calls=6, commit="0" * 7)


def stage(folder, name, conditions, held_out=None):
    score = Score(mean=0.5, low=0.4, high=0.6, n=64, conditions=conditions)
    for part in ("adapter", "lora"):
        (folder / name / part).mkdir(parents=True)
    TeacherCard(
        name=name,
        task="ocr",
        guidance_scale=1.0,
        base="base",
        rank=2,
        alpha=4.0,
        scores={"mini": {"ocr": score}},
        recipe=dataclasses.replace(RECIPE, command=name),
        held_out={"mini": held_out or {}},
    ).save(folder / name / "adapter")
    return folder / name


def test_a_stage_whose_interval_is_not_known_is_drawn_without_an_error_bar(tmp_path):
    conditions = {"images": 1}
    folder = stage(tmp_path, "first", conditions)
    card = TeacherCard.load(folder / "adapter")
    alone = Score(mean=0.5, low=None, high=None, n=1, conditions=conditions)
    dataclasses.replace(card, scores={"mini": {"ocr": alone}}).save(folder / "adapter")
    report_cascade(tmp_path / "out", {"first": folder}, name="cascade", model_path=str(tmp_path))
    assert "0.500 ±?" in (tmp_path / "out" / "mini.md").read_text()
    assert (tmp_path / "out" / "mini.png").read_bytes().startswith(b"\x89PNG")


def test_only_stages_that_were_scored_alike_are_in_the_table(tmp_path, capsys):
    stages = {
        name: stage(tmp_path, name, {"images": 64, "sampler.num_steps": steps})
        for name, steps in (("first", 4), ("second", 40), ("third", 40))
    }
    report_cascade(tmp_path / "out", stages, name="cascade", model_path=str(tmp_path))
    text = (tmp_path / "out" / "mini.md").read_text()
    assert "after first" not in text
    assert all(f"after {name}" in text for name in ("second", "third"))
    printed = capsys.readouterr().out
    assert (
        "after first: not shown, because it was scored with other settings: sampler.num_steps: 40 and 4"
        in printed
    )


def test_a_cascade_shows_what_no_stage_was_trained_on_where_it_was_measured_alike(tmp_path, capsys):
    def value(number, drawings):
        return {"frechet": HeldOut(value=number, n=192, better="lower", conditions={"drawings": drawings})}

    stages = {
        name: stage(tmp_path, name, {"images": 64}, value(number, drawings))
        for name, number, drawings in (("first", 1.0, 2000), ("second", 2.0, 500), ("third", 3.0, 2000))
    }
    report_cascade(tmp_path / "out", stages, name="cascade", model_path=str(tmp_path))
    lines = (tmp_path / "out" / "mini.md").read_text().splitlines()
    assert "|  | guidance | Fréchet distance ↓ |" in lines
    found = [
        f"| after {name} | 1 | {cell} |" in lines
        for name, cell in (("first", "1.000"), ("second", "-"), ("third", "3.000"))
    ]
    assert all(found)
    told = "after second has values that do not fit (here and there): drawings: 2000 and 500"
    assert told in capsys.readouterr().out
    assert TeacherCard.load(tmp_path / "out" / "adapter").held_out == {"mini": value(3.0, 2000)}


def test_a_cascade_ends_with_its_page(tmp_path, capsys):
    stages = {name: stage(tmp_path, name, {"images": 64}) for name in ("first", "second")}
    report_cascade(tmp_path / "out", stages, name="cascade_nft", model_path=str(tmp_path))
    page = tmp_path / "out" / "report" / "index.html"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "minutes:       2.0 training of all stages",
        f"open {page}",
    ]
    text = page.read_text(encoding="utf-8")
    for part in (
        "cascade_nft, seed 0",
        "after first",
        "after second",
        "first &amp;&amp; second",
        "Scores on mini",
    ):
        assert part in text, part
    assert text.count("data:image/png;base64,") == 1
