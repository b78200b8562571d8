"""Several seeds in one table: which is the median, what the range is, by hand."""

from __future__ import annotations

import dataclasses

from diffopd.files.sealed import write_sealed_json
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.methods import group_runs
from diffopd.report.methods.seeds import seed_table, seed_tables
from support.report_page import page_of
from support.run_folders import write_run

REWARD = {"train/reward/ocr": [0.5]}


def write_seed(folder, seed, ocr, style, *, kept=None, distance=None):
    """A run whose report has a base of .4 and teachers of .8 and .6, and a student at guidance 1 and 2."""

    def row(name, scale, ocr, style):
        means = {"ocr": ocr, "style": style}
        scores = {task: {"mean": mean, "low": None, "high": None, "n": 64} for task, mean in means.items()}
        return {"name": name, "guidance_scale": scale, "scores": scores}

    run = write_run(folder / f"seed{seed}", "mopd_ode", seed, REWARD)
    kept = {"ocr": (ocr - 0.4) / 0.4, "style": (style - 0.4) / 0.2} if kept is None else kept
    rows = [
        row("base", 1.0, 0.4, 0.4),
        row("teacher: ocr", 1.0, 0.8, 0.4),
        row("teacher: style", 1.0, 0.4, 0.6),
    ]
    rows += [row("student", 1.0, ocr, style), row("student", 2.0, ocr + 0.1, style)]
    if distance is not None:
        rows[-2]["held_out"] = {"frechet": {"value": distance, "n": 192, "better": "lower", "conditions": {}}}
    table = {"title": "mini: reward by task", "rows": rows, "gain_kept": {"1.0": kept, "2.0": {}}}
    write_sealed_json(run / "report" / "table.json", table)
    return run


def methods_of(folder):
    return group_runs(find_runs([str(folder)]), {}, include_unfinished=False)


def test_the_median_seed_and_the_range(tmp_path):
    for seed, (ocr, style) in enumerate(
        [(0.8, 0.5), (0.6, 0.44), (0.72, 0.56)]
    ):  # kept: 75, 35, 80 % on average
        write_seed(tmp_path, seed, ocr, style)
    (table,) = seed_tables(methods_of(tmp_path))
    assert (table.label, table.seeds, table.median) == ("mopd_ode", [0, 1, 2], 0)
    lines = {(line[0], line[1]): line[2:] for line in table.lines}
    assert table.header == ["", "guidance", "ocr", "style"]
    assert lines["base", "1"] == ["0.400", "0.400"]
    assert lines["teacher: style", "1"] == ["0.400", "0.600"]
    assert lines["student, seed 0 (median)", "1"] == ["0.800", "0.500"]
    assert lines["student, range of seeds", "1"] == ["0.600 to 0.800", "0.440 to 0.560"]
    assert lines["student, range of seeds", "2"] == ["0.700 to 0.900", "0.440 to 0.560"]
    assert lines["gain kept, seed 0 (median)", "1"] == ["100%", "50%"]
    assert lines["gain kept, median per task", "1"] == ["80%", "50%"]  # 100, 50, 80 and 50, 20, 80
    assert lines["gain kept, range of seeds", "1"] == ["50% to 100%", "20% to 80%"]
    assert lines["gain kept, median per task", "2"] == ["-", "-"]
    assert "of 3 seeds the one with the median share of its teachers' gains, mean over tasks" in table.note


def test_scores_decide_where_shares_are_not_known_and_two_seeds_have_the_lower(tmp_path):
    write_seed(tmp_path, 3, 0.8, 0.5, kept={"ocr": 1.0})
    write_seed(tmp_path, 5, 0.7, 0.5, kept={})
    (method,) = methods_of(tmp_path)
    table = seed_table(method)
    assert (table.median, table.seeds) == (5, [3, 5])
    assert "of 2 seeds the one with the median score, mean over tasks at guidance 1" in table.note


def test_tasks_stand_in_the_order_of_the_config_and_not_of_the_sorted_file(tmp_path):
    for seed in range(2):
        write_seed(tmp_path, seed, 0.8, 0.5)
    (method,) = methods_of(tmp_path)
    settings = {"data.tasks.style.path": "a", "data.tasks.ocr.path": "b"}
    table = seed_table(dataclasses.replace(method, settings=settings))
    assert table.header == ["", "guidance", "style", "ocr"]
    assert ["teacher: style", "1", "0.600", "0.400"] in table.lines


def test_no_table_of_one_seed_or_without_reports(tmp_path):
    write_seed(tmp_path / "a", 0, 0.8, 0.5)
    write_run(tmp_path / "a" / "seed1", "mopd_ode", 1, REWARD)  # ~report
    assert seed_tables(methods_of(tmp_path / "a")) == []


def test_the_command_prints_the_table_and_the_page_has_it(tmp_path, capsys):
    for seed, ocr in enumerate((0.8, 0.6, 0.72)):
        write_seed(tmp_path / "runs", seed, ocr, 0.5)
    page = page_of(tmp_path / "runs", "claims=none")
    out = capsys.readouterr().out
    assert "**mopd_ode, seeds 0, 1, 2**" in out
    assert "| student, seed 2 (median) | 1 | 0.720 | 0.500 |" in out
    assert out.splitlines()[-1] == f"open {tmp_path / 'runs' / 'page' / 'index.html'}"
    assert "Median seed and range of seeds" in page
    assert '<td class="number">0.600 to 0.800</td>' in page
    assert (tmp_path / "runs" / "page" / "seeds.md").read_text() in out


def test_what_nothing_is_trained_on_has_its_median_seed_and_range(tmp_path):
    for seed, (ocr, distance) in enumerate([(0.8, 3.0), (0.6, 1.0), (0.72, 2.0)]):
        write_seed(tmp_path, seed, ocr, 0.5, distance=distance)
    (table,) = seed_tables(methods_of(tmp_path))
    assert table.held_out is not None
    assert table.held_out.header == ["", "guidance", "Fréchet distance ↓"]
    lines = {(line[0], line[1]): line[2:] for line in table.held_out.lines}
    assert lines["base", "1"] == ["-"]
    assert lines["student, seed 2 (median)", "1"] == ["2.000"]
    assert lines["student, range of seeds", "1"] == ["1.000 to 3.000"]
    assert lines["student, seed 2 (median)", "2"] == ["-"]
    assert "| student, range of seeds | 1 | 1.000 to 3.000 |" in table.to_markdown()
    assert "Fréchet distance\u00a0↓" in page_of(tmp_path)


def test_tables_of_before_have_nothing_of_it(tmp_path):
    for seed in range(2):
        write_seed(tmp_path, seed, 0.8, 0.5)
    (table,) = seed_tables(methods_of(tmp_path))
    assert table.held_out is None
    assert "Not used for training" not in table.to_markdown()
