"""Who wins: a row that learned, generalizes and still draws in few steps; none that lacks one of these."""

from __future__ import annotations

import csv
import dataclasses

import pytest

from diffopd.report.comparison.wins import Condition, is_met, judge_rows, read_conditions
from diffopd.report.comparison.wins_files import wins_table, write_wins
from diffopd.report.methods.claims import Claim
from diffopd.report.methods.difference import Difference
from diffopd.report.methods.runs import read_run
from diffopd.report.methods.verdict import Verdict
from support.run_folders import result, write_run

ENTRY = {"text": "nearer", "tasks": ["near"], "against": "base", "needs": "better", "margin": 0.02}
RULES = {
    "learned": ENTRY,
    "generalizes": ENTRY | {"tasks": ["unseen"]},
    "few_step": ENTRY
    | {"tasks": ["shapes", "signs"], "against": "base_16", "needs": "not_worse", "margin": 0.05},
}
SCORES = {  # nearness, unseen prompts, what the base can do; each of three seeds
    "good": (0.80, 0.60, 0.70),
    "memorizes": (0.95, 0.02, 0.70),
    "blurs": (0.80, 0.60, 0.40),
    "nothing": (0.44, 0.11, 0.70),
}


@pytest.fixture
def runs(tmp_path):
    """Runs of each row with scores that vary a little over seeds; the base with one seed each."""

    def scored(row, seed, near, unseen, kept, steps=4):
        scores = {"near": near, "unseen": unseen, "shapes": kept, "signs": kept}
        found = result({task: value + 0.004 * seed * (task != "near") for task, value in scores.items()})
        conditions = {task: {"images": 64, "sampler.num_steps": steps} for task in scores}
        found = dataclasses.replace(found, benchmark="few", conditions=conditions)
        folder = tmp_path / row / f"seed{seed}"
        write_run(folder, row, seed, {"train/loss": [0.1]})
        found.save(folder / "scores" / "few_guidance_1" / "results.json")
        return dataclasses.replace(read_run(folder), name=row)

    made = [scored("base", 0, 0.5, 0.1, 0.7), scored("base_16", 0, 0.5, 0.1, 0.71, steps=16)]
    for row, values in SCORES.items():
        made += [scored(row, seed, values[0] + 0.002 * seed, *values[1:]) for seed in range(3)]
    return made


@pytest.fixture
def conditions():
    return read_conditions(RULES, ["base", "base_16", *SCORES])


def judged(conditions, runs, rows=tuple(SCORES)):
    return {row.row: row for row in judge_rows(conditions, runs, list(rows), benchmark="few")}


def test_a_row_wins_only_if_it_meets_all(conditions, runs):
    found = judged(conditions, runs)
    assert {row: one.wins for row, one in found.items()} == {
        "good": "yes",
        "memorizes": "no",
        "blurs": "no",
        "nothing": "no",
    }
    assert found["good"].met == {"learned": "yes", "generalizes": "yes", "few_step": "yes"}
    assert found["memorizes"].met == {"learned": "yes", "generalizes": "no", "few_step": "yes"}
    assert found["blurs"].met == {"learned": "yes", "generalizes": "yes", "few_step": "no"}
    assert found["nothing"].met["learned"] == "no"


def test_a_model_that_is_not_trained_stands_for_every_seed(conditions, runs):
    verdict = judged(conditions, runs)["good"].verdicts["learned"]
    assert verdict.against.values == {0: 0.5, 1: 0.5, 2: 0.5}
    assert verdict.difference.mean == pytest.approx(0.302)


def test_one_seed_decides_nothing(conditions, runs):
    first = [run for run in runs if run.seed == 0]
    found = judged(conditions, first)["good"]
    assert set(found.met.values()) == {"open"}
    assert found.wins == "open"
    assert "+0.300, 1 seed" in wins_table(conditions, [found])


def test_scores_of_other_steps_compare_and_those_of_other_prompts_do_not(conditions, runs):
    assert judged(conditions, runs)["good"].verdicts["few_step"].difference is not None
    other = []
    for run in runs:
        (path, found), name = run.results[0], run.name
        if name == "base_16":
            changed = {task: {**entry, "images": 9} for task, entry in found.conditions.items()}
            changed = {task: {**entry, "sampler.shift": 9.0} for task, entry in changed.items()}
            run = dataclasses.replace(run, results=[(path, dataclasses.replace(found, conditions=changed))])
        other.append(run)
    verdict = judged(conditions, other)["good"].verdicts["few_step"]
    assert verdict.difference is None
    assert "sampler.shift" in verdict.reason


@pytest.mark.parametrize(
    ("needs", "outcome", "p_equivalent", "met"),
    [
        ("better", "holds", 0.9, "yes"),
        ("better", "does not hold", 0.9, "no"),
        ("better", "no difference larger than 0.02", 0.01, "no"),
        ("better", "open: 9 seeds would decide", 0.5, "open"),
        ("not_worse", "holds", 0.9, "yes"),
        ("not_worse", "no difference larger than 0.02", 0.01, "yes"),
        ("not_worse", "does not hold", 0.01, "yes"),  # worse, but by less than matters
        ("not_worse", "does not hold", 0.5, "no"),
        ("not_worse", "not decidable at 1 seed", None, "open"),
    ],
)
def test_what_a_verdict_means_for_a_condition(needs, outcome, p_equivalent, met):
    claim = Claim(
        id="x",
        figure="",
        text="",
        method="a",
        against="b",
        metric="final_score",
        task=None,
        level=None,
        margin=0.02,
    )
    verdict = Verdict(claim=claim, outcome=outcome, reason="", num_seeds=3, p_equivalent=p_equivalent)
    assert is_met(needs, verdict) == met


@pytest.mark.parametrize(("high", "met"), [(-0.06, "no"), (-0.01, "open")])
def test_worse_by_less_than_the_margin_maybe_is_open(high, met):
    entry = {"id": "", "figure": "", "text": "", "method": "a", "against": "b", "metric": "final_score"}
    claim = Claim(**entry, task=None, level=None, margin=0.05)
    found = Difference(
        mean=-0.07, low=-0.13, high=high, p=0.001, p_equivalent=0.9, num_pairs=None, over_prompts=True
    )
    verdict = Verdict(
        claim=claim, outcome="does not hold", reason="", num_seeds=2, difference=found, margin=0.05
    )
    assert is_met("not_worse", verdict) == met
    assert is_met("better", verdict) == "no"


def test_a_row_to_compare_with_that_is_not_there_is_an_error():
    with pytest.raises(
        ValueError, match=r"wins\.few_step\.against=base_16 is not among the rows \(base, a\)"
    ):
        read_conditions(RULES, ["base", "a"])


def test_files(conditions, runs, tmp_path, capsys):
    rows = judge_rows(conditions, runs, list(SCORES), benchmark="few")
    write_wins(conditions, rows, tmp_path / "out", title="a table")
    with (tmp_path / "out" / "wins.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(SCORES) * len(RULES)
    good = next(line for line in lines if line["row"] == "good" and line["condition"] == "few_step")
    assert (good["met"], good["wins"], good["against"]) == ("yes", "yes", "base_16")
    assert float(good["difference"]) == pytest.approx(-0.006)  # of .704 over seeds from .71
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('<span class="no">') == 6  # three rows that do not win, with what each lacks
    assert page.count('<span class="open">') == 1  # "nothing" on unseen prompts
    assert "data:image/png;base64," in page
    assert (tmp_path / "out" / "wins.png").stat().st_size > 10_000
    assert "| good | yes (" in capsys.readouterr().out


def test_names_of_conditions_are_fields(conditions):
    assert isinstance(conditions[0], Condition)
    assert conditions[2].tasks == ("shapes", "signs")
