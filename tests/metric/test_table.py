import io

import pytest
from rich.console import Console

from diffopd.metric.interval import Interval
from diffopd.metric.table import ResultTable

TABLE = ResultTable(
    "Scores", {"base": {"ocr": 0.25}, "student": {"ocr": Interval(0.5, 0.25, 0.75), "composition": 0.875}}
)


def test_markdown():
    assert TABLE.to_markdown() == (
        "|  | ocr | composition |\n"
        "| --- | ---: | ---: |\n"
        "| base | 0.250 | - |\n"
        "| student | 0.500 [0.250, 0.750] | 0.875 |\n"
    )


def test_json_round_trip():
    assert ResultTable.from_json(TABLE.to_json()) == TABLE


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        ResultTable("t", {"base": {"ocr": float("nan")}}).to_json()


def test_terminal():
    console = Console(file=io.StringIO(), width=100)
    console.print(TABLE.to_rich())
    text = console.file.getvalue()
    assert all(part in text for part in ("Scores", "base", "student", "0.500 [0.250, 0.750]", "composition"))
