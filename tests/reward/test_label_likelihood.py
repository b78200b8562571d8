"""Probabilities of labels as beginnings of a reply, against all replies of a small vocabulary."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from diffopd.reward.learned.label_likelihood import continuations, log_likelihoods

VOCABULARY, LENGTH = 3, 4


@pytest.fixture(scope="module")
def following():
    """Log-probabilities of the next token after every beginning of a reply, two samples at once."""
    generator = torch.Generator().manual_seed(0)
    beginnings = [b for length in range(LENGTH) for b in product(range(VOCABULARY), repeat=length)]
    return {
        b: torch.randn(2, VOCABULARY, generator=generator, dtype=torch.float64).log_softmax(1)
        for b in beginnings
    }


def begins_with(reply, labels):
    """The longest of the labels that a reply begins with."""
    return max((label for label in labels if reply[: len(label)] == label), key=len, default=None)


@pytest.mark.parametrize(
    "labels",
    [
        [(0,), (1,)],
        [(0, 1), (2,), (1, 1, 1)],
        [(0, 1, 2), (0, 1, 0), (0, 2)],  # beginnings in common
        [(0,), (0, 1), (0, 1, 2), (0, 2, 2), (1,)],  # some begin with others
    ],
)
def test_each_reply_stands_for_the_longest_label_that_it_begins_with(following, labels):
    expected = torch.zeros(2, len(labels), dtype=torch.float64)
    for reply in product(range(VOCABULARY), repeat=LENGTH):
        steps = [following[reply[:place]][:, token] for place, token in enumerate(reply)]
        if (label := begins_with(reply, labels)) is not None:
            expected[:, labels.index(label)] += sum(steps).exp()
    torch.testing.assert_close(log_likelihoods(following, labels).exp(), expected)


def test_every_token_is_predicted_in_as_few_passes_as_there_are_ends():
    labels = [(0, 1, 2), (0, 1, 0), (0, 2), (1,), (2, 2)]
    read = continuations(labels)
    assert read == [(0, 1), (2,)]
    predicted = {tokens[:place] for tokens in read for place in range(len(tokens) + 1)}
    assert predicted >= {label[:place] for label in labels for place in range(len(label))}


def test_a_label_that_always_becomes_a_longer_one_has_nothing_left(following):
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    logs = log_likelihoods({(): certain, (0,): certain}, [(0,), (0, 0)])
    assert logs.tolist() == [[-torch.inf, 0.0]]
