"""Whether a context helps, from numbers worked out by hand."""

from __future__ import annotations

import json

import pytest
import torch

from diffopd.metric.context_gain import ContextGain, ProbedState


def state(student, teacher, step=0, **more):
    return ProbedState(
        step=step, sigma=1.0 - step / 4, student=torch.tensor(student), teacher=torch.tensor(teacher), **more
    )


def gain(*states, least_gain=0.01):
    return ContextGain(states=states, num_draws=2, least_gain=least_gain)


def test_the_gain_is_a_mean_over_states_with_an_interval_over_pictures():
    found = gain(state([0.4, 0.6], [0.2, 0.2]), state([0.2, 0.2], [0.1, 0.1], step=1))
    # Picture by picture: (0.2 + 0.1) / 2 and (0.4 + 0.1) / 2; the student's mean distance is 0.35.
    assert found.gain.mean == pytest.approx(0.2)
    assert (found.gain.low, found.gain.high) == (pytest.approx(0.15), pytest.approx(0.25))
    assert found.share == pytest.approx(0.2 / 0.35)
    assert found.helps
    assert found.problems == []
    assert found.summary == (
        "the teacher's predicted clean latents are 57.1% nearer to the pictures than the student's: squared "
        "distance 0.35, teacher 0.15, difference 0.2 (95 % CI 0.15 to 0.25) over 2 pictures"
    )
    kept = json.loads(json.dumps(found.to_json()))
    assert kept["states"][1]["teacher"] == pytest.approx([0.1, 0.1])
    assert kept["helps"] is True


@pytest.mark.parametrize(
    ("student", "teacher", "least", "helps"),
    [
        ([0.4, 0.6, 0.5], [0.5, 0.7, 0.6], 0.0, False),  # further away
        ([0.4, 0.6, 0.5], [0.2, 0.7, 0.55], 0.0, False),  # nearer on average by one picture alone
        ([0.4, 0.6, 0.5], [0.398, 0.598, 0.498], 0.01, False),  # nearer for certain, by 0.4 %
        ([0.4, 0.6, 0.5], [0.398, 0.598, 0.498], 0.001, True),
        ([0.5], [0.4], 0.01, True),  # of one picture there is no interval
        ([0.5], [0.5], 0.0, False),
    ],
)
def test_a_context_helps_if_the_teacher_is_nearer_by_enough_and_not_by_chance(student, teacher, least, helps):
    found = gain(state(student, teacher), least_gain=least)
    assert found.helps == helps
    problems = [
        problem for problem in found.problems if problem.startswith("the context does not help: the teacher")
    ]
    assert bool(problems) != helps
    assert all("try another sentence (context.template=...)" in problem for problem in problems)


def placed(zoom, shift, agreement):
    return {"zoom": torch.tensor(zoom), "shift": torch.tensor(shift), "agreement": torch.tensor(agreement)}


def test_a_zoomed_and_shifted_layout_is_told_where_it_means_something():
    still = [[0.0, 0.0]] * 3
    zoomed = state([0.4] * 3, [0.2] * 3, **placed([1.1, 1.08, 1.12], still, [0.9] * 3))
    (problem,) = gain(zoomed).problems
    assert problem.startswith("the teacher's layout is zoomed in: what it draws is 1.100 times as large")
    moved = state(
        [0.4] * 3, [0.2] * 3, **placed([1.0] * 3, [[0.0, 0.08], [0.0, 0.1], [0.0, 0.09]], [0.9] * 3)
    )
    (problem,) = gain(moved).problems
    assert "+9.0% right of where your pictures have it" in problem
    strange = state([0.4] * 3, [0.2] * 3, **placed([1.1, 1.08, 1.12], still, [0.3] * 3))
    assert gain(strange).problems == []  # no layout in common
    either_way = state([0.4] * 3, [0.2] * 3, **placed([1.2, 0.8, 1.2], still, [0.9] * 3))
    assert gain(either_way).problems == []
    (line,) = gain(zoomed).lines()
    assert line.endswith("teacher's zoom 1.100, shift +0.0% down +0.0% right, agreement 0.90")
