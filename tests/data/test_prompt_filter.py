"""Prompts whose rewards span little are passed over for a while; the choice is resumed with the run."""

from __future__ import annotations

import pytest

from diffopd.data.prompt_filter import PromptFilter, reward_ranges
from diffopd.data.prompts import PromptData

ORDER = (3, 0, 2, 1)  # of every pass


def one_round(prompts: PromptFilter, ranges, count=2, total=4):
    draws = prompts.chosen("ocr", count, total, lambda number: ORDER, 0)
    places = [ORDER[draw % total] for draw in draws]
    found = [ranges[place] for place in places]
    return places, prompts.observe("ocr", draws, total, lambda number: ORDER, found, 0)


def test_a_prompt_rests_for_a_pass_and_is_tried_again():
    """Prompt 0 spans too little: it is left out of the second pass and comes again in the third."""
    prompts, ranges = PromptFilter(min_range=0.2, skip_passes=1), [0.1, 0.5, 0.2, 0.9]
    rounds = [one_round(prompts, ranges) for _ in range(5)]
    assert rounds == [([3, 0], 0), ([2, 1], 0), ([3, 2], 1), ([1, 3], 0), ([0, 2], 0)]


def test_a_prompt_that_spans_enough_again_stays():
    prompts, ranges = PromptFilter(min_range={"ocr": 0.2}, skip_passes=1), [0.1, 0.5, 0.2, 0.9]
    for _ in range(2):
        one_round(prompts, ranges)
    ranges[0] = 0.5
    later = [one_round(prompts, ranges)[0] for _ in range(5)]
    assert later == [[3, 2], [1, 3], [0, 2], [1, 3], [0, 2]]


def test_asking_twice_changes_nothing_and_a_state_is_taken_up():
    first, ranges = PromptFilter(min_range=0.2, skip_passes=2), [0.1, 0.0, 0.2, 0.9]
    for _ in range(3):
        one_round(first, ranges)
    second = PromptFilter(min_range=0.2, skip_passes=2)
    second.load_state_dict(first.state_dict())
    asked = [p.chosen("ocr", 2, 4, lambda number: ORDER, 0) for p in (first, first, second)]
    assert asked[0] == asked[1] == asked[2]
    assert [one_round(first, ranges) for _ in range(6)] == [one_round(second, ranges) for _ in range(6)]


def test_all_prompts_may_rest():
    prompts = PromptFilter(min_range=1, skip_passes=1)
    assert [one_round(prompts, [0.0] * 4) for _ in range(4)] == [
        *(([3, 0], 0), ([2, 1], 0)),
        *(([3, 0], 4), ([2, 1], 0)),  # nobody is left in the second pass
    ]


def test_rounds_tell_the_filter_of_their_own_prompts(tmp_path):
    tasks = {}
    for task in ("ocr", "style"):
        (tmp_path / f"{task}.txt").write_text("".join(f"{task} {i}\n" for i in range(4)))
        tasks[task] = {"path": str(tmp_path / f"{task}.txt"), "prompts_per_round": 2, "group_size": 2}
    data = PromptData(
        seed=0,
        schedule="accumulate",
        tasks=tasks,
        prompt_filter={"min_range": {"style": 0.5}, "skip_passes": 1},
    )
    plain = PromptData(seed=0, schedule="accumulate", tasks=tasks)
    seen = [data.batch(number).texts for number in range(1)]
    assert seen[0] == plain.batch(0).texts
    ranges = {"ocr": {0: 0.0, 1: 0.0}, "style": {2: 0.9, 3: 0.1}}
    assert data.observe(0, ranges) == {"ocr": 0, "style": 0}
    resting = seen[0][-1]  # the second group of style
    assert data.batch(1).texts == plain.batch(1).texts
    data.observe(1, {"ocr": {0: 0.0, 1: 0.0}, "style": {2: 0.9, 3: 0.9}})
    later = [data.batch(2).texts]
    assert data.observe(2, {"ocr": {0: 0.0, 1: 0.0}, "style": {2: 0.9, 3: 0.9}})["ocr"] == 0
    later.append(data.batch(3).texts)
    style = [text for texts in later for text in texts[4:]]
    assert len(set(style[:6])) == 3
    assert resting not in style[:6]  # the other three of its second pass
    assert [text for texts in later for text in texts[:4]] == [
        text for number in (2, 3) for text in plain.batch(number).texts[:4]
    ]
    assert set(data.texts_of(1)) == {f"{task} {i}" for task in tasks for i in range(4)}


def test_ranges_by_hand():
    found = reward_ranges([0.1, 0.6, 0.3, 1.0, 1.0], [0, 0, 0, 1, 1], ["a", "a", "a", "b", "b"])
    assert found == {"a": {0: 0.5}, "b": {1: 0.0}}


@pytest.mark.parametrize(
    "settings", [{"min_range": -1, "skip_passes": 1}, {"min_range": True, "skip_passes": 1}]
)
def test_ranges_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"data\.prompt_filter\.min_range=.* must be a finite number"):
        PromptFilter(**settings)


def test_prompts_rest_for_a_pass_at_least():
    with pytest.raises(ValueError, match=r"data\.prompt_filter\.skip_passes=0 must be a whole number"):
        PromptFilter(min_range=0.1, skip_passes=0)
