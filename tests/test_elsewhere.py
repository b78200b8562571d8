"""Seeds of a table that another machine made: joined by their numbers, or refused."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from diffopd.check import ConfigError
from diffopd.jobs.comparison import RowRun, collect, runs_of
from diffopd.jobs.elsewhere import read_elsewhere, with_elsewhere
from diffopd.report.comparison.compared import TableRow
from diffopd.report.comparison.comparison import read_csv, write_comparison
from diffopd.report.methods.archive import archive_runs
from diffopd.report.methods.find import find_runs
from support.run_folders import result, write_run


def row_run(place, name, seed, score, *, lr=1e-3, steps=40, task="ocr"):
    """A trained and scored row; ``base`` is not trained."""
    folder = place / name / f"seed{seed}"
    if name != "base":
        settings = {"optimizer": {"lr": lr}}
        write_run(folder, "mopd_ode", seed, {"train/reward/ocr": [0.1, score]}, settings=settings)
        note = folder / "finished.json"
        cost = '"minutes": 2.0, "images": 24, "reward_calls": 24, "command"'
        note.write_text(note.read_text().replace('"command"', cost))
    found = dataclasses.replace(result({task: score}), conditions={task: {"sampler.num_steps": steps}})
    found.save(folder / "scores" / "mini_guidance_1" / "results.json")
    return RowRun(
        row=name,
        seed=seed,
        command=None if name == "base" else "train",
        arguments=(),
        teachers={},
        guidance=[1.0],
        note=f"the row {name}",
        folder=folder,
    )


def written(rows, folder, tables=()):
    """A table's folder, as the command writes it."""
    compared, runs = with_elsewhere(collect(rows, ["mini"]), runs_of(rows), tables)
    archive_runs(runs, folder / "data")
    write_comparison(compared, runs, folder, num_shown=0)
    return compared


@pytest.fixture
def first(tmp_path):
    """Seeds 0 and 1 of ``opd``, and rows that a second table has not."""
    rows = [
        row_run(tmp_path / "a", name, seed, score)
        for name, seed, score in (("base", 0, 0.5), ("opd", 0, 0.75), ("opd", 1, 0.875), ("other", 0, 0.625))
    ]
    written(rows, tmp_path / "first")
    shutil.rmtree(tmp_path / "a")
    return tmp_path / "first"


def test_seeds_of_two_machines_are_one_table(tmp_path, first):
    here = [row_run(tmp_path / "b", "base", 0, 0.5), row_run(tmp_path / "b", "opd", 2, 1.0)]
    written(here, tmp_path / "second", read_elsewhere([str(first)]))
    rows = read_csv(tmp_path / "second" / "table.csv")
    assert [(row.name, row.seed, row.scores["mini"]["ocr"].mean) for row in rows] == [
        ("base", 0, 0.5),
        ("opd", 0, 0.75),
        ("opd", 1, 0.875),
        ("opd", 2, 1.0),
    ]
    assert {row.minutes_alone for row in rows if row.name == "opd"} == {2.0}
    assert rows[1] in read_csv(first / "table.csv")
    assert (
        "| opd | 1 | 3 | 2.0 | 2.0 | 24 | 24 | 0.875 ±0.311 |"
        in (tmp_path / "second" / "table.md").read_text()
    )
    kept = find_runs([str(tmp_path / "second" / "data")])
    assert [(run.name, run.seed) for run in kept] == [("base", 0), ("opd", 0), ("opd", 1), ("opd", 2)]


def test_a_seed_that_is_here_is_taken_from_here(tmp_path, first):
    here = [row_run(tmp_path / "b", "opd", 1, 1.0)]
    compared = written(here, tmp_path / "second", read_elsewhere([str(first)]))
    assert [(row.seed, row.scores["mini"]["ocr"].mean, type(row) is TableRow) for row in compared] == [
        (0, 0.75, True),
        (1, 1.0, False),
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"lr": 0.01},
            r"its row opd was trained otherwise: optimizer\.lr is 0\.001 there, 0\.01 here\. Only seeds",
        ),
        ({"steps": 4}, r"its row opd was scored otherwise: ocr, sampler\.num_steps: 40 and 4"),
        ({"task": "composition"}, r"do not both have the scores mini/composition, mini/ocr; take the same"),
    ],
)
def test_seeds_of_something_else_are_refused(tmp_path, first, other, message):
    here = [row_run(tmp_path / "b", "opd", 2, 1.0, **other)]
    tables = read_elsewhere([str(first)])
    with pytest.raises(ConfigError, match=f"also={first}.*{message}"):
        with_elsewhere(collect(here, ["mini"]), runs_of(here), tables)


def test_a_folder_that_is_no_table_is_refused(tmp_path, first):
    (first / "table.csv").write_text("row,seed\nopd,1\n")
    with pytest.raises(ConfigError, match=r"first is not what a table writes: "):
        read_elsewhere([str(first)])
    (first / "table.csv").unlink()
    for place in (first, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=rf"also={place} needs table\.csv and data/"):
            read_elsewhere([str(place)])
