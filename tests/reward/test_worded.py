"""Composition judged by a prompt's own words: the same verdicts as by its clauses."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.types import Prompts
from diffopd.world.prompt_sets import prompt
from diffopd.world.request import Request


@pytest.fixture(scope="module")
def by_words():
    conf = Path(__file__).parents[2] / "conf"
    with initialize_config_dir(str(conf / "reward"), version_base="1.3"):
        return instantiate(compose("worded_composition"))


def without_clauses(prompts):
    return Prompts(prompts.texts, prompts.tasks, ({},) * len(prompts), prompts.indices, prompts.groups)


@pytest.mark.parametrize("form", ["two_object", "counting", "position", "color_attr"])
def test_words_give_the_verdicts_of_clauses(by_words, drawings, form):
    images, prompts = drawings((form,), 40, seed=2)
    shuffled = images.roll(1, 0)
    for shown in (images, shuffled):
        expected = by_words.reward(shown, prompts)
        found = by_words(shown, without_clauses(prompts))
        assert found.value.tolist() == expected.value.tolist()
    assert by_words(images, without_clauses(prompts)).value.mean() == 1


def test_a_painting_is_judged_by_what_it_should_show(by_words, drawings):
    images, prompts = drawings(("painting",), 40, seed=2, task="aesthetic")
    assert by_words(images, without_clauses(prompts)).value.mean() > 0.95
    assert by_words(images.roll(1, 0), without_clauses(prompts)).value.mean() < 0.2


def test_the_words_of_a_prompt_file_are_understood(by_words):
    text = prompt(Request("painting", ("ring",), ("red",), place="fog"))
    assert text == "in the fog a painting of a red ring"
    by_words.check_prompt(Prompts((text,), ("aesthetic",), ({},), (0,), (0,)))


def test_a_prompt_of_another_world_is_refused(by_words):
    with pytest.raises(ValueError, match="the drawn world has no such prompt: 'a red barn'"):
        by_words.check_prompt(Prompts(("a red barn",), ("aesthetic",), ({},), (0,), (0,)))
