"""The rule that chooses a picture's prompts, worked by hand."""

from __future__ import annotations

import pytest

from diffopd.report.run.chosen import Choice, choose, choose_scored, first, first_scores, rule_sentence
from support.run_folders import result


def test_the_first_prompts_on_which_the_base_fails_and_the_teacher_succeeds():
    base = [0.0, 0.6, 0.4, 0.5, 0.1, 0.49]
    teacher = [0.8, 1.0, 1.0, 1.0, 0.9, 1.0]  # best of all 1.0: below 0.5, at least 0.9
    choice = choose("ocr", base, teacher, number=3)
    assert choice.places == (2, 4, 5)  # 0: the teacher fails; 1: the base succeeds; 3: 0.5 is not below 0.5
    assert (choice.num_by_rule, choice.fails_below, choice.succeeds_at, choice.searched) == (3, 0.5, 0.9, 6)
    assert choose("ocr", base, teacher, number=2).places == (2, 4)
    assert choice.sentence == "ocr: base below 0.50, teacher at least 0.90"


def test_where_too_few_are_found_those_of_the_largest_gain_follow():
    base, teacher = [0.6, 0.1, 0.6, 0.7, 0.2], [0.8, 1.0, 0.9, 0.6, 0.7]
    choice = choose("composition", base, teacher, number=4)
    assert choice.places == (1, 4, 2, 0)  # by rule: 1; then gains .5, .3, .2; last would be 3 with -.1
    assert choice.sentence == (
        "composition: base below 0.50, teacher at least 0.90 (1 such; the last 3 by largest gain)"
    )
    none = choose("a", [0.6, 0.7], [0.7, 0.6], number=1)
    assert none.places == (0,)
    assert none.sentence.endswith("(none such; the 1 by largest gain)")


def test_limits_are_shares_of_the_task_s_best_score():
    choice = choose("aesthetic", [0.3, 0.39, 0.41, 0.8], [0.71, 0.72, 0.79, 0.5], number=2)
    assert (choice.fails_below, choice.succeeds_at) == pytest.approx((0.4, 0.72))
    assert choice.places == (1, 0)  # 1 by rule; of the rest 0 gains .41, 2 gains .38
    scores = choose("far", [21.0, 22.0], [22.5, 22.4], number=1)  # no base is below half of that
    assert (scores.places, scores.num_by_rule) == ((0,), 0)


def test_equal_gains_keep_the_order_of_the_file_and_all_are_shown_where_there_are_fewer():
    assert choose("a", [1.0] * 3, [1.0] * 3, number=5).places == (0, 1, 2)
    assert choose("a", [-2.0, -1.0], [-1.0, -1.0], number=1).places == (0,)  # no score above 0
    with pytest.raises(ValueError, match="ocr: 1 scores of the base and 2 of the teacher; score both alike"):
        choose("ocr", [1.0], [1.0, 0.0], number=1)


def test_the_caption_states_the_rule_and_what_it_gave():
    choices = [choose("ocr", [0.1, 0.2], [1.0, 1.0], number=2), first("style", 9, number=2)]
    assert rule_sentence(choices) == (
        "Prompts: per task the first, among the first 2 of its test file, on which the base fails "
        "(score below 50% of the best) and the task's teacher succeeds (at least 90% of the best). Ocr: base "
        "below 0.50, teacher at least 0.90; style: the first 2, as nothing says how base and teacher score "
        "on them."
    )
    unscored = rule_sentence([first("style", 1, number=2)])
    assert unscored.startswith("Prompts of the test files: style: the first 1,")


def test_choosing_from_evaluations():
    scores = {"ocr": 0.5, "style": 0.5}
    base = result(scores, by_prompt={"ocr": [0.9, 0.1, 0.2], "style": [0.1, 0.1, 0.1]})
    teacher = result(scores, by_prompt={"ocr": [1.0, 0.2, 1.0], "style": [0.1, 0.1, 1.0]})
    choices = choose_scored(base, base, {"ocr": teacher}, number=1)
    assert [(choice.task, choice.places) for choice in choices] == [("ocr", (2,)), ("style", (0,))]
    assert [choice.places for choice in choose_scored(base, None, {"ocr": teacher}, number=1)] == [(0,), (0,)]
    assert isinstance(choices[0], Choice)
    assert first_scores(teacher.tasks["ocr"]) == [1.0, 0.2, 1.0]
