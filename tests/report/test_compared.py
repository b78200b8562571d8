"""Means over seeds, normalised means, costs of students, by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffopd.evaluation.result import EvaluationResult, TaskResult
from diffopd.files.sample_sheet import read_sheet
from diffopd.report.comparison import figures
from diffopd.report.comparison.compared import ComparedRow, TrainingCost, normalised_means, summarise
from diffopd.report.comparison.comparison import read_csv, to_markdown, write_comparison
from diffopd.report.methods.runs import read_run
from diffopd.report.run.images import save_png
from diffopd.teacher import Estimate, HeldOut

FREE = TrainingCost(minutes=0.0, images=0, reward_calls=0)


def row(
    name,
    *scores,
    seed=0,
    guidance_scale=1.0,
    cost=FREE,
    teachers=(),
    images=Path("images"),
    trained=True,
    taught_by=None,
):
    return ComparedRow(
        name=name,
        seed=seed,
        note="",
        guidance_scale=guidance_scale,
        cost=cost,
        teachers=teachers,
        scores={
            "mini": {
                task: Estimate(mean=score, low=score - 0.1, high=score + 0.1, n=4)
                for task, score in zip(("composition", "ocr"), scores, strict=True)
            }
        },
        images=images,
        trained=trained,
        taught_by=taught_by or {},
    )


def test_a_student_costs_what_its_teachers_cost_too():
    teachers = [
        TrainingCost(minutes=10.0, images=100, reward_calls=100),
        TrainingCost(minutes=4.0, images=50, reward_calls=50),
    ]
    student = row("opd", 0, 0, cost=TrainingCost(minutes=3.0, images=20, reward_calls=2), teachers=teachers)
    assert student.minutes == 13.0
    assert student.minutes_in_all == 17.0
    assert student.images_in_all == 170
    assert student.reward_calls_in_all == 152


def test_means_and_intervals_are_over_seeds_of_one_guidance():
    rows = [row("a", 0.2, 0.5), row("a", 0.4, 0.5, seed=1), row("a", 0.9, 0.9, guidance_scale=2.0)]
    first, second = summarise(rows)
    assert (first.num_seeds, second.num_seeds) == (2, 1)
    score = first.scores["mini", "composition"]
    half = 12.7062 * 0.1  # t of 1 degree of freedom
    assert (score.mean, score.half) == pytest.approx((0.3, half), abs=1e-4)
    assert second.scores["mini", "composition"].half is None


def test_normalised_means_run_from_the_worst_row_to_the_best_of_each_score():
    rows = [row("worst", 0.2, 0.4), row("middle", 0.5, 0.4), row("best", 0.8, 0.6)]
    assert normalised_means(summarise(rows)) == pytest.approx([0.0, 0.25, 1.0])


def test_rows_that_are_equal_count_as_best():
    assert normalised_means(summarise([row("a", 0.3, 0.3), row("b", 0.3, 0.3)])) == [1.0, 1.0]


def test_the_markdown_marks_single_seeds_and_leaves_free_rows_blank():
    rows = [
        row("base", 0.2, 0.4),
        row("a", 0.5, 0.5, cost=TrainingCost(minutes=61.25, images=1440, reward_calls=1440)),
    ]
    rows.append(row("a", 0.7, 0.5, seed=1, cost=TrainingCost(minutes=61.25, images=1440, reward_calls=1440)))
    lines = to_markdown(summarise(rows), [0.0, 1.0]).splitlines()
    assert lines[0].startswith("|  | guidance | seeds | minutes |")
    assert lines[2] == "| base | 1 | 1 | - | - | - | - | 0.200 | 0.400 | 0.000 |"
    assert lines[3] == "| a | 1 | 2 | 61.2 | 61.2 | 1,440 | 1,440 | 0.600 ±1.271 | 0.500 ±? | 1.000 |"


def measured(spectrum, distance):
    return {
        "mini": {
            "frechet": HeldOut(value=distance, n=192, better="lower"),
            "spectrum": HeldOut(value=spectrum, n=192, better="higher"),
        }
    }


def test_what_nothing_is_trained_on_is_below_the_table_and_in_no_mean():
    rows = [
        replace(row("base", 0.2, 0.4), held_out=measured(0.9, 1.0)),
        replace(row("a", 0.5, 0.5), held_out=measured(0.25, 2.0)),
        replace(row("a", 0.7, 0.5, seed=1), held_out=measured(0.75, 2.0)),
        row("b", 0.5, 0.5),  # scored before these were measured
    ]
    summaries = summarise(rows)
    assert normalised_means(summaries) == normalised_means(
        summarise([replace(found, held_out={}) for found in rows])
    )
    text = to_markdown(summaries, normalised_means(summaries))
    assert text.splitlines()[-7:] == [
        "**Not used for training** (↑ higher is better, ↓ lower; 192 images; "
        "- = not measured alike, or not at all)",
        "",
        "|  | guidance | seeds | detail like clean drawings, mini ↑ | Fréchet distance, mini ↓ |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| base | 1 | 1 | 0.900 | 1.000 |",
        "| a | 1 | 2 | 0.500 ±3.177 | 2.000 ±? |",  # t of 1 degree of freedom is 12.706; 12.706 * .25
        "| b | 1 | 1 | - | - |",
    ]
    assert "Not used" not in to_markdown(summarise([row("base", 0.2, 0.4)]), [1.0])


def test_a_csv_keeps_what_nothing_is_trained_on(tmp_path):
    rows = [
        replace(full_row(tmp_path, "a", (0.2,)), held_out=measured(0.5, 2.0)),
        full_row(tmp_path, "b", (0.2,)),
    ]
    write_comparison(rows, runs_of(rows), tmp_path, num_shown=1)
    read = read_csv(tmp_path / "table.csv")
    assert [found.held_out for found in read] == [measured(0.5, 2.0), {}]
    assert [set(found.scores["mini"]) for found in read] == [{"composition", "ocr"}] * 2
    again = summarise(read)
    assert to_markdown(again, normalised_means(again)) == (tmp_path / "table.md").read_text()


def test_everything_is_written(tmp_path, capsys):
    rows = [
        full_row(tmp_path, "base", ()),
        full_row(tmp_path, "a", (0.2, 0.4, 0.6)),
        full_row(tmp_path, "b", (0.5,)),
    ]
    write_comparison(rows, runs_of(rows), tmp_path, num_shown=1)
    printed = capsys.readouterr().out
    for name in ("radar", "reward_by_minutes", "images"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / f"{name}.png") in printed
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["base", "a", "b"]
    assert float(lines[1]["mini/ocr/low"]) == pytest.approx(0.2)


def test_curves_are_drawn_per_seed_with_their_mean(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "diffopd.report.comparison.figures.save_figure", lambda figure, path: drawn.append(figure)
    )
    seeds = [
        replace(full_row(tmp_path, f"a{seed}", (0.2, 0.4, 0.6)), name="a", seed=seed) for seed in range(3)
    ]
    rows = [*seeds, full_row(tmp_path, "b", (0.5, 0.7))]
    figures.reward_by_minutes(rows, runs_of(rows), tmp_path / "curves.png")
    (axis,) = drawn[0].axes
    assert len(axis.get_lines()) == 3 + 1 + 1  # seeds of a, their mean, and the only seed of b
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]


def test_a_csv_keeps_that_an_interval_is_not_known(tmp_path):
    alone = Estimate(mean=0.5, low=None, high=None, n=1)
    scores = {"mini": {"composition": alone, "ocr": alone}}
    rows = [replace(full_row(tmp_path, "a", (0.2,)), scores=scores)]
    write_comparison(rows, runs_of(rows), tmp_path, num_shown=1)
    (read,) = read_csv(tmp_path / "table.csv")
    assert read.scores == scores


def test_the_picture_shows_prompts_on_which_the_base_fails_and_the_task_s_teacher_succeeds(tmp_path, capsys):
    at_two = full_row(tmp_path / "two", "base", (), scores=(0.9, 0.1, 0.3), guidance_scale=2.0, mean=0.6)
    rows = [
        full_row(tmp_path, "base", (), scores=(0.0, 0.0, 0.0), mean=0.2),
        at_two,  # scores better, so it is the base that is shown
        full_row(tmp_path, "teacher_ocr", (0.5,), scores=(1.0, 0.5, 0.9)),
        full_row(tmp_path, "opd", (0.5,), scores=(0.6, 0.7, 0.8), taught_by={"ocr": "teacher_ocr"}),
    ]
    rows = [replace(row, trained=row.name != "base") for row in rows]
    write_comparison(rows, runs_of(rows), tmp_path, num_shown=1)
    sheet = read_sheet(tmp_path / "images.png")
    assert list(sheet.columns) == ["base", "teacher\nocr", "opd"]
    assert list(sheet.prompts) == [
        ("composition", "one"),
        ("ocr", "three"),
    ]  # composition has no teacher here
    assert list(sheet.scores[1]) == [0.3, 0.9, 0.8]
    assert "Ocr: base below" not in sheet.rule
    assert "ocr: base below 0.50, teacher at least 0.90" in sheet.rule
    assert f"the images: {sheet.rule}" in capsys.readouterr().out


def runs_of(rows):
    """Each row's run, as its folder holds it."""
    return [
        replace(read_run(row.images.parent), name=row.name, seed=row.seed)
        for row in rows
        if row.images.is_dir()
    ]


def full_row(folder, name, rewards, *, scores=(0.3, 0.3), guidance_scale=1.0, mean=0.3, taught_by=None):
    """A row with images, results and metrics on disk."""
    place = folder / name
    task = TaskResult(
        value=Estimate(mean=mean, low=0.2, high=0.4, n=len(scores)),
        tags={},
        parts={},
        texts=("one", "two", "three")[: len(scores)],
        groups=tuple(range(len(scores))),
        strata=(0,) * len(scores),
        scores=scores,
    )
    EvaluationResult(
        benchmark="mini",
        seed=0,
        guidance_scale=guidance_scale,
        adapter=None,
        tasks={"composition": task, "ocr": task},
        held_out={},
    ).save(place / "results.json")
    for name_of_task in ("composition", "ocr"):
        for index in range(len(scores)):
            save_png(torch.rand(3, 8, 8), place / "images" / name_of_task / f"{index:05d}.png")
    if rewards:
        lines = [f"{number},{reward},30" for number, reward in enumerate(rewards)]
        text = "\n".join(["step,train/reward/ocr,train/time/seconds_per_round", *lines]) + "\n"
        (place / "metrics.csv").write_text(text)
    return row(
        name,
        mean,
        mean,
        guidance_scale=guidance_scale,
        images=place / "images",
        taught_by=taught_by,
    )
