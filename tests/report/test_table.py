import io
import json

import pytest
from rich.console import Console

from diffopd.report.run.table import FinalTable, Row, gain_kept
from diffopd.teacher import Estimate


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
