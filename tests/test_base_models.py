"""Each page under experiments/ says of which base model its numbers are."""

from __future__ import annotations

from functools import cache

import pytest

from support.scripts import EXPERIMENTS, experiment_script


def script():
    return experiment_script("base_model")


@cache
def shipped():
    return script().shipped()


@pytest.mark.parametrize("name", sorted(script().pages()))
def test_a_page_says_of_which_base_model_its_numbers_are(name):
    known = script().noted()
    assert name in known, "add it to experiments/base_models.json: the digest of its base, or null"
    path = script().pages()[name]
    base = known[name]
    recorded = script().recorded(path.parent)
    assert recorded <= {base}, "its data are of another base: python experiments/base_model.py"
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.startswith(script().START)]
    wanted = [] if base is None else [script().line(base, shipped())]
    assert lines == wanted, "python experiments/base_model.py brings every page up to date"


def test_the_data_of_the_ablations_record_their_base():
    assert len(script().recorded(EXPERIMENTS / "ablations")) == 1


def test_a_page_of_another_base_says_so():
    now = {"mini_sd3": "bbbb", "mini_klein": "cccc"}
    told = script().line("aaaa", now)
    assert told == "> Base model: `aaaa`, not the shipped one (`bbbb`): of an old model."
    assert script().line("bbbb", now) == "> Base model: `bbbb`, the shipped one."
    assert script().line("cccc", now) == "> Base model: `cccc`, the shipped `model=mini_klein`."
    before = "# Title\n\n> Base model: `aaaa`, the shipped one.\n\nText.\n"
    assert script().with_line(before, told) == f"# Title\n\n{told}\n\nText.\n"
    assert script().with_line("# Title\n\nText.\n", told) == f"# Title\n\n{told}\n\nText.\n"
    assert script().with_line(before, None) == "# Title\n\nText.\n"


def test_a_page_s_own_data_count_and_not_those_of_a_page_below(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "README.md").write_text("# One\n")
    (tmp_path / "below" / "README.md").write_text("# Two\n")
    (tmp_path / "scores.json").write_text('{"conditions": {"base": "0123456789abcdef"}}')
    (tmp_path / "below" / "scores.json").write_text('{"base": "fedcba9876543210"}')
    assert script().recorded(tmp_path) == {"0123456789abcdef"}
    assert script().recorded(tmp_path / "below") == {"fedcba9876543210"}
