"""The page on architecture tells what the import contract says."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_has_the_modules_of_the_ladder_in_its_order():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (ladder,) = (contract["layers"] for contract in contracts if contract["id"] == "ladder")
    rung_of = {name: rung for rung, layer in enumerate(ladder) for name in re.findall(r"\w+", layer)}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [re.findall(r"`(\w+)`", row.split("|")[2]) for row in re.findall(r"^\| \d+ \|.*$", page, re.M)]
    assert sorted(name for row in rows for name in row) == sorted(rung_of)
    for above, below in itertools.pairwise(rows):
        assert max(rung_of[name] for name in above) <= min(rung_of[name] for name in below)
