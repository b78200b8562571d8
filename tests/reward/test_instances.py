"""Objects from logits that are planted by hand."""

import pytest
import torch

from diffopd.reward.geneval.instances import Frame, box_of, find_instances

OFF = -50.0
"""Probability 0."""


def class_logits(*rows, num_classes=3):
    """Per query its class probabilities; what is left to 1 is that of no object."""
    table = torch.zeros(len(rows), num_classes + 1)
    for number, row in enumerate(rows):
        for label, probability in row.items():
            table[number, label] = probability
        table[number, -1] = 1 - sum(row.values())
    return table.log()


def mask_logits(*boxes, size=(8, 10), logit=50.0):
    masks = torch.full((len(boxes), *size), OFF)
    for number, (left, top, right, bottom) in enumerate(boxes):
        masks[number, top:bottom, left:right] = logit
    return masks


def found(classes, masks, frame=None, max_instances=100, min_confidence=0.3):
    frame = frame or Frame(masks.shape[1:], masks.shape[1:], masks.shape[1:])
    return find_instances(classes, masks, frame, max_instances=max_instances, min_confidence=min_confidence)


def test_class_confidence_box_and_mask_are_read_off():
    first, second = found(class_logits({1: 0.6}, {2: 0.9}), mask_logits((1, 2, 4, 7), (5, 0, 10, 3)))
    assert (first.label, first.box) == (2, (5, 0, 10, 3))
    assert first.confidence == pytest.approx(0.9, abs=1e-6)
    assert (second.label, second.box) == (1, (1, 2, 4, 7))
    assert second.confidence == pytest.approx(0.6, abs=1e-6)
    assert second.mask.sum() == 3 * 5
    assert second.mask[2:7, 1:4].all()


def test_confidence_is_class_times_mean_mask_probability():
    masks = mask_logits((0, 0, 2, 2), logit=0.0)
    masks[0, 0, :2] = torch.tensor(3.0).log()  # probability 3/4 on two pixels; 0 is not above one half
    (only,) = found(class_logits({0: 0.8}), masks)
    assert only.confidence == pytest.approx(0.8 * 0.75, abs=1e-6)
    assert only.box == (0, 0, 2, 1)


def test_one_query_may_be_two_objects():
    objects = found(class_logits({0: 0.5, 2: 0.4}), mask_logits((0, 0, 3, 3)))
    assert [(x.label, x.box) for x in objects] == [(0, (0, 0, 3, 3)), (2, (0, 0, 3, 3))]


def test_overlapping_objects_keep_their_whole_masks():
    objects = found(class_logits({0: 0.9}, {0: 0.8}), mask_logits((0, 0, 6, 6), (2, 2, 9, 8)))
    assert [x.box for x in objects] == [(0, 0, 6, 6), (2, 2, 9, 8)]


def test_unlikely_empty_and_surplus_ones_are_left_out():
    classes = class_logits({0: 0.9}, {0: 0.8}, {0: 0.7}, {0: 0.2})
    masks = mask_logits((0, 0, 0, 0), (0, 0, 2, 2), (3, 3, 5, 5), (6, 6, 8, 8))
    assert [x.box for x in found(classes, masks)] == [(0, 0, 2, 2), (3, 3, 5, 5)]
    assert [x.box for x in found(classes, masks, max_instances=2)] == [(0, 0, 2, 2)]
    assert found(classes, masks, min_confidence=0.95) == []


def test_a_weak_mask_takes_confidence_below_the_threshold():
    weak = mask_logits((0, 0, 3, 3), logit=torch.tensor(1.5).log().item())  # probability 0.6
    assert found(class_logits({0: 0.5}), weak, min_confidence=0.3) == []
    assert len(found(class_logits({0: 0.51}), weak, min_confidence=0.3)) == 1


def test_masks_come_to_the_images_own_size():
    """A 16 by 20 image, seen at twice its size with padding, masks at a quarter of the input."""
    frame = Frame(size=(16, 20), resized=(32, 40), padded=(64, 64))
    masks = mask_logits((2, 1, 6, 5), size=(16, 16), logit=-OFF)
    (only,) = found(class_logits({0: 0.9}), masks, frame)
    assert only.mask.shape == (16, 20)
    assert only.box == (4, 2, 12, 10)


def test_what_lies_in_the_padding_is_no_object():
    frame = Frame(size=(16, 20), resized=(32, 40), padded=(64, 64))
    assert found(class_logits({0: 0.9}), mask_logits((12, 12, 15, 15), size=(16, 16)), frame) == []


def test_box_of_a_scattered_mask_spans_it():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1, 5] = mask[3, 2] = True
    assert box_of(mask) == (2, 1, 6, 4)
