"""A scorer reads other words than the prompts have, and nothing else changes."""

import pytest
import torch

from diffopd.reward.replaced_words import ReplacedWordsReward
from diffopd.types import Prompts


class Reader:
    """Notes what it reads."""

    def __init__(self):
        self.read = []

    def __call__(self, images, prompts):
        self.read += prompts.texts
        return torch.zeros(len(prompts))

    def check_prompt(self, prompt):
        self.read += prompt.texts


@pytest.mark.parametrize(
    ("words", "text", "read"),
    [
        ({"plim": "figure"}, "a red plim, plims and a plim", "a red figure, plims and a figure"),
        ({"[V]": "corgi"}, "a photo of [V] dog", "a photo of corgi dog"),
        ({"a": "b", "b": "c"}, "a b", "b c"),
        ({}, "a plim", "a plim"),
    ],
)
def test_whole_words_are_replaced_at_once(words, text, read):
    reader = Reader()
    reward = ReplacedWordsReward(words=words, reward=reader)
    prompts = Prompts((text,), ("t",), ({},), (0,), (0,))
    reward(torch.zeros(1, 3, 2, 2), prompts)
    reward.check_prompt(prompts)
    assert reader.read == [read, read]
    assert reward.known_pair() is None
    assert prompts.texts == (text,)
