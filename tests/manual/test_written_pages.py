"""The pages on learning rates and trouble: ours is as it composes, what is of others names its source."""

from __future__ import annotations

import re
from pathlib import Path

import large_models

DOCS = Path(__file__).parents[2] / "docs"


def test_the_defaults_are_those_that_compose():
    assert large_models.defaults() in (DOCS / "learning_rates.md").read_text(encoding="utf-8")


def test_every_line_of_others_has_a_source():
    page = (DOCS / "learning_rates.md").read_text(encoding="utf-8")
    tables = [block for block in page.split("\n\n") if block.startswith("|") and "Source |" in block]
    assert len(tables) == 2
    for table in tables:
        for line in table.splitlines()[2:]:
            assert re.search(r"https://|arXiv:|the same|there", line.split("|")[-2]), line
    assert "https://github.com/X-GenGroup/Flow-Factory/tree/" in page


def test_every_question_names_where_it_was_asked():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    assert len(entries) >= 20
    for entry in entries:
        asked = entry[entry.index("\nAsked") :]
        assert re.search(r"\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", asked), entry
