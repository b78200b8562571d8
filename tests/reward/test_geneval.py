import json
from pathlib import Path

import pytest

from diffopd.reward.geneval.geneval import confident_objects, relations, score_detections
from diffopd.types import Detection

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden/geneval_scoring.json").read_text())


def detections(case):
    return [Detection(d["class"], tuple(d["box"]), d["confidence"], d["color"]) for d in case["detections"]]


def at(x, y, name="cat", confidence=0.95, colour="red", side=2.0):
    return Detection(name, (float(x), float(y), x + side, y + side), confidence, colour)


def test_all_scores_equal_the_published_implementations():
    assert len(GOLDEN) == 240
    for case in GOLDEN:
        score = score_detections(detections(case), case["metadata"])
        assert score.official == case["accuracy"]
        assert score.strict == case["strict_accuracy"]
        assert score.dense_released == pytest.approx(case["dense_reward_released"], abs=1e-12)


def test_corrected_dense_stays_in_bounds_and_is_one_exactly_when_strict():
    scores = [score_detections(detections(case), case["metadata"]) for case in GOLDEN]
    assert all(0 <= s.dense <= 1 for s in scores)
    assert all((s.dense == 1) == s.strict for s in scores)
    assert min(s.dense_released for s in scores) < 0  # the released one does leave the bounds


def test_corrected_dense_counts_a_failed_relation_once():
    metadata = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}],
    }
    score = score_detections([at(0, 0), at(0, 20, "dog")], metadata)  # below, not above
    assert score.dense == pytest.approx(2 / 3)  # terms 1, 1, 0
    assert score.dense_released == pytest.approx(3 / 4)  # terms 1, 1, 0, 1


def test_surplus_objects_take_the_dense_term_to_zero_and_the_released_one_below():
    metadata = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    score = score_detections([at(0, 0), at(9, 9), at(20, 20)], metadata)
    assert (score.official, score.strict, score.dense, score.dense_released) == (True, False, 0.0, -1.0)


def test_exclude_makes_the_official_verdict_false():
    metadata = {
        "tag": "counting",
        "include": [{"class": "cat", "count": 1}],
        "exclude": [{"class": "cat", "count": 2}],
    }
    assert score_detections([at(0, 0)], metadata).official
    assert not score_detections([at(0, 0), at(9, 9)], metadata).official


def test_wrong_colour_among_right_ones():
    metadata = {"tag": "colors", "include": [{"class": "cat", "count": 2, "color": "red"}]}
    score = score_detections([at(0, 0), at(9, 9, colour="blue")], metadata)
    assert (score.official, score.strict) == (False, False)
    assert score.dense == pytest.approx((1 + 1 / 2) / 2)


def test_counting_needs_more_confidence_and_classes_are_capped():
    sure, unsure = at(0, 0, confidence=0.95), at(9, 9, confidence=0.5)
    assert confident_objects([unsure, sure], "colors")["cat"] == [sure, unsure]  # best first
    assert confident_objects([unsure, sure], "counting")["cat"] == [sure]
    assert len(confident_objects([at(i, 0) for i in range(20)], "colors")["cat"]) == 16


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((10, 0), {"right of"}),
        ((-10, 0), {"left of"}),
        ((0, 10), {"below"}),
        ((0, -10), {"above"}),
        ((10, 10), {"right of", "below"}),  # (10 - 0.4) / 14.1 = 0.68 on both axes
        ((10, 5), {"right of"}),  # down: (5 - 0.4) / 11.2 = 0.41
        ((0.4, 0), set()),  # within a tenth of both widths
    ],
)
def test_relations(offset, expected):
    assert relations(at(*offset), at(0, 0)) == expected


def test_metadata_without_clauses_is_refused():
    with pytest.raises(ValueError, match="at least one 'include' clause"):
        score_detections([], {"tag": "colors"})
