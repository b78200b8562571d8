"""Context probes and leak tests of many runs, as a page has them."""

from __future__ import annotations

import json

import pytest
import torch

from diffopd.metric.leak import Leak
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.leaks import HEADER, leak_table
from diffopd.report.methods.methods import group_runs
from support.report_page import page_of
from support.run_folders import write_run

GAP = {"train/gap/pictures": [0.5]}


def measured(folder, name, seed, trained, base, share):
    place = write_run(folder / f"{name}{seed}", name, seed, GAP)
    leak = Leak(
        prompts=("one", "two", "three"),
        layout=(torch.tensor(trained), torch.tensor(base)),
        latent=(torch.ones(3), torch.full((3,), 2.0)),
        num_draws=1,
        least_rise=0.1,
        least_approach=0.5,
    )
    (place / "leak_test.json").write_text(json.dumps({"rounds": 1, **leak.to_json()}))
    (place / "context_probe.json").write_text(json.dumps({"share": share}))


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a method that leaks in one of them, and a run without measurements."""
    measured(tmp_path, "a", 0, [0.75, 0.875, 1.0], [0.25, 0.25, 0.5], 0.25)
    measured(tmp_path, "a", 1, [0.25, 0.5, 0.5], [0.25, 0.5, 0.5], 0.125)
    write_run(tmp_path / "b", "b", 0, GAP)
    return tmp_path


def test_a_line_for_each_method_that_was_measured(runs):
    table = leak_table(group_runs(find_runs([str(runs)]), {}, include_unfinished=False))
    assert table.header == HEADER
    ((name, number, nearer, trained, base, rise, latent, latent_base, leaks),) = table.lines
    assert (name, number, leaks) == ("a", "2", "1 of 2")
    assert nearer.startswith("0.188 ±")  # (0.25 + 0.125) / 2
    assert trained.startswith("0.646 ±")  # (0.875 + 0.41667) / 2
    assert base.startswith("0.375 ±")  # (0.3333 + 0.41667) / 2
    assert rise.startswith("0.271 ±")  # (0.54167 + 0) / 2
    assert (latent, latent_base) == ("1.000 ±?", "2.000 ±?")
    assert "a rise of 0.1 or more" in table.note


def test_a_page_shows_it_and_its_data_keep_it(runs):
    page = page_of(runs, "claims=none")
    heading = "<h2>Does the teacher&#39;s context help, and does it leak?</h2>".replace("&#39;", "'")
    assert heading in page
    assert "1 of 2" in page
    again = page_of(runs / "page" / "data", "claims=none")
    assert page.partition(heading)[2].partition("</section>")[0] in again


def test_a_page_of_other_runs_has_no_such_table(tmp_path):
    write_run(tmp_path / "b", "b", 0, GAP)
    assert "does it leak" not in page_of(tmp_path, "claims=none")
