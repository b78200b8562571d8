import pytest

from diffopd.reward.geneval.coco import COCO_NAMES, check_labels


def labels(names):
    return dict(enumerate(names))


def test_labels_have_their_usual_numbers():
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == 80
    known = {0: "person", 15: "cat", 16: "dog", 56: "chair", 62: "tv", 64: "computer mouse", 79: "toothbrush"}
    assert {number: COCO_NAMES[number] for number in known} == known


def test_coco_in_its_own_spelling_and_without_names_passes():
    coco = [name.removeprefix("computer ").removeprefix("tv ") for name in COCO_NAMES]
    check_labels(labels(coco), "reward.detector.path=x")
    check_labels(labels(f"LABEL_{number}" for number in range(80)), "reward.detector.path=x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (COCO_NAMES[:79], "has 79 classes, GenEval needs COCO's 80"),
        (
            COCO_NAMES[1:] + COCO_NAMES[:1],
            r"only \d of .* are COCO's .*its first is 'bicycle', COCO's 'person'",
        ),
    ],
)
def test_other_labels_are_refused(names, message):
    with pytest.raises(ValueError, match=rf"^reward\.detector\.path=x: .*{message}"):
        check_labels(labels(names), "reward.detector.path=x")
