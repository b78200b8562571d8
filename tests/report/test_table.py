import io
import json

import pytest
from rich.console import Console

from diffopd.report.run.held_out import LABELS
from diffopd.report.run.page import PageTable
from diffopd.report.run.table import FinalTable, Row, gain_kept
from diffopd.teacher import Estimate, HeldOut


def score(mean):
    return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, n=64)


BASE = {"ocr": score(0.2), "composition": score(0.5)}
STUDENT = {"ocr": score(0.38), "composition": score(0.7)}


def table():
    rows = [
        Row("base", 2.0, BASE),
        Row("teacher: ocr", 1.0, {"ocr": score(0.4)}),
        Row("student", 2.0, STUDENT),
    ]
    return FinalTable("mini", rows, {2.0: {"ocr": 0.9}})


def test_gain_kept_is_the_share_of_each_teacher_s_own_gain():
    shares = gain_kept(BASE, {"ocr": score(0.4), "composition": score(0.6)}, STUDENT)
    assert shares == pytest.approx({"ocr": 0.9, "composition": 2.0})


def test_a_teacher_without_a_clear_gain_has_no_share():
    assert gain_kept(BASE, {"ocr": score(0.2), "composition": score(0.54)}, STUDENT) == {}


def test_markdown():
    lines = table().to_markdown().splitlines()
    assert lines[2] == "|  | guidance | ocr | composition |"
    assert lines[4] == "| base | 2 | 0.200 ±0.050 | 0.500 ±0.050 |"
    assert lines[5] == "| teacher: ocr | 1 | 0.400 ±0.050 | - |"
    assert lines[7] == "| student's gain kept | 2 | 90% | - |"


def of_all(spectrum, distance, n=192):
    return {
        "frechet": HeldOut(value=distance, n=n, better="lower", conditions={"seed": 0}),
        "spectrum": HeldOut(value=spectrum, n=n, better="higher", conditions={"seed": 0}),
    }


def with_held_out():
    own = HeldOut(value=0.25, n=64, better="neither")
    rows = [
        Row("base", 1.0, BASE, of_all(0.75, 2.5)),
        Row("teacher: ocr", 1.0, {"ocr": score(0.4)}),  # whose card is of before
        Row("student", 1.0, STUDENT, {**of_all(0.5, 3.0), "my_own": own}),
    ]
    return FinalTable("mini", rows, {})


def test_what_nothing_is_trained_on_is_a_table_of_its_own_below():
    lines = with_held_out().to_markdown().splitlines()
    assert lines[2] == "|  | guidance | ocr | composition |"
    assert lines[8:] == [
        "**Not used for training** (↑ higher is better, ↓ lower; 192 images; my own: 64; "
        "- = not measured alike, or not at all)",
        "",
        "|  | guidance | detail like clean drawings ↑ | Fréchet distance ↓ | my own |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| base | 1 | 0.750 | 2.500 | - |",
        "| teacher: ocr | 1 | - | - | - |",
        "| student | 1 | 0.500 | 3.000 | 0.250 |",
    ]
    assert table().held_out() is None
    assert "Not used for training" not in table().to_markdown()


def test_the_page_has_it_below_the_scores_and_marks_the_same_rows():
    scores, held_out = PageTable.of(with_held_out(), own="student", heading="Scores")
    assert (scores.heading, held_out.heading) == ("Scores", "Scores not used for training")
    assert held_out.own == scores.own == "student"
    assert [line[0] for line in held_out.lines] == ["base", "teacher: ocr", "student"]
    assert len(PageTable.of(table(), own="student")) == 1


def test_four_values_with_long_names_fit_a_terminal_of_80_columns():
    names = ("spectrum", "frechet", "aesthetic_of_all_tasks", "composition_of_aesthetic")
    values = {name: HeldOut(value=0.5, n=192, better="higher") for name in names}
    rows = [Row(name, 2.0, BASE, values) for name in ("base", "teacher: composition", "student")]
    console = Console(file=io.StringIO(), width=80)
    console.print(FinalTable("mini", rows, {}).held_out().to_rich())
    text = console.file.getvalue()
    assert text.count("0.500") == 12
    assert "…" not in text
    assert "teacher: composition" in text
    words = " ".join(text.split())
    assert all(word in words for word in ("drawings", "Fréchet", "pictures", "paintings", "asked"))


def test_more_values_are_below_each_other():
    values = {name: HeldOut(value=0.5, n=192, better="higher") for name in LABELS}
    rows = [Row(name, 2.0, BASE, values) for name in ("base", "teacher: composition", "student")]
    console = Console(file=io.StringIO(), width=80)
    console.print(FinalTable("mini", rows, {}).held_out().to_rich())
    text = console.file.getvalue()
    assert text.count("0.500") == 3 * len(LABELS) == 27
    assert text.count("teacher: composition") == 3
    assert "…" not in text
    assert text.count("Not used for training") == text.count("192 images") == 1


def test_json_keeps_what_nothing_is_trained_on_with_its_conditions():
    row = json.loads(json.dumps(with_held_out().to_json()))["rows"][0]
    assert row["held_out"]["frechet"] == {
        "value": 2.5,
        "n": 192,
        "better": "lower",
        "conditions": {"seed": 0},
    }
    assert HeldOut.of_each(row["held_out"]) == of_all(0.75, 2.5)


def test_a_direction_is_one_of_three():
    with pytest.raises(ValueError, match="better is 'up', it must be one of higher, lower, neither"):
        HeldOut(value=0.5, n=1, better="up")


def test_json_holds_every_number():
    record = json.loads(json.dumps(table().to_json()))
    assert record["rows"][0]["scores"]["ocr"] == {
        "mean": 0.2,
        "low": 0.15000000000000002,
        "high": 0.25,
        "n": 64,
    }
    assert record["gain_kept"] == {"2.0": {"ocr": 0.9}}


def test_three_tasks_fit_a_terminal_of_80_columns():
    scores = {task: score(0.5) for task in ("composition", "ocr", "aesthetic")}
    rows = [Row(name, 2.0, scores) for name in ("base", "teacher: composition", "student")]
    console = Console(file=io.StringIO(), width=80)
    console.print(FinalTable("mini", rows, {2.0: dict.fromkeys(scores, 0.912)}).to_rich())
    text = console.file.getvalue()
    assert text.count("0.500 ±0.050") == 9
    assert text.count("91%") == 3
    assert "teacher: composition" in text


def test_four_tasks_fit_a_terminal_of_80_columns():
    scores = {task: score(0.5) for task in ("composition", "ocr", "aesthetic", "redness")}
    rows = [Row(name, 2.0, scores) for name in ("base", "teacher: composition", "student")]
    console = Console(file=io.StringIO(), width=80)
    console.print(FinalTable("mini", rows, {2.0: dict.fromkeys(scores, 0.912)}).to_rich())
    text = console.file.getvalue()
    assert text.count(".500 ±.050") == 12
    assert "…" not in text
    assert "student's gain kept" in text


def test_an_interval_that_is_not_known_is_shown_so_and_makes_no_gain():
    alone = Estimate(mean=0.6, low=None, high=None, n=1)
    shown = FinalTable("mini", [Row("base", 1.0, {"ocr": alone})], {}).to_markdown()
    assert "| base | 1 | 0.600 ±? |" in shown
    assert "±? = not known" in shown
    assert "not known" not in table().to_markdown()
    base, better = {"ocr": Estimate(mean=0.1, low=None, high=None, n=1)}, {"ocr": score(0.9)}
    assert gain_kept(base, {"ocr": alone}, better) == {}
    assert gain_kept({"ocr": score(0.2)}, {"ocr": alone}, better) == pytest.approx({"ocr": 1.75})


def test_the_number_of_images_is_in_the_title_or_where_rows_differ_in_each_cell():
    assert (
        table()
        .to_markdown()
        .startswith("**mini (ocr 64, composition 64 images)** (mean ± half of its 95 % CI")
    )
    few = Estimate(mean=0.6, low=0.5, high=0.7, n=12)
    mixed = FinalTable("mini", [Row("base", 1.0, BASE), Row("student", 1.0, {**STUDENT, "ocr": few})], {})
    lines = mixed.to_markdown().splitlines()
    assert lines[0].startswith("**mini (composition 64 images)**")
    assert lines[4] == "| base | 1 | 0.200 ±0.050 (n = 64) | 0.500 ±0.050 |"
    assert lines[5] == "| student | 1 | 0.600 ±0.100 (n = 12) | 0.700 ±0.050 |"
