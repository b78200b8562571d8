"""A prompt's figure scored where it was asked for, and prompts that describe none."""

import pytest
import torch
from hydra.errors import InstantiationException

from diffopd.reward.checked import score_checked
from diffopd.types import Prompts
from diffopd.world.learning_tasks import TASKS, write_task


@pytest.fixture
def reward(build_scorer_of):
    return build_scorer_of("figure_match")


def prompt(**line):
    return Prompts(("a plim",), ("unseen",), (line,), (0,), (0,))


def test_the_good_image_scores_and_the_other_does_not(reward):
    for side in (32, 64):
        pair = reward.known_pair_of(side)
        assert pair.better.shape == (3, side, side)
        better, worse = (
            score_checked(reward, image[None], pair.prompt, "reward") for image in (pair.better, pair.worse)
        )
        assert better.value.item() == 1
        assert worse.value.item() < 0.5
        assert better.parts["overlap"].item() > 0.9


def test_the_scale_is_linear_between_the_two_overlaps(reward):
    overlap = torch.tensor([0.4, 0.5, 0.7, 0.9, 1.0])
    torch.testing.assert_close(reward._score(overlap), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({}, "needs the keys 'figure', its number, and 'colours'"),
        ({"figure": -8}, "needs the keys 'figure'"),
        ({"figure": 8, "colours": ["red"]}, "needs the keys 'figure'"),
        ({"figure": 8, "colours": ["red", "mauve"]}, "needs the keys 'figure'"),
        ({"figure": 8, "size": "huge"}, "'size' must be one of small, large or null"),
        ({"figure": 8, "position": "on top"}, "'position' one of in the middle"),
    ],
)
def test_a_prompt_that_describes_no_figure_is_an_error(reward, line, message):
    with pytest.raises(ValueError, match=message):
        reward.check_prompt(prompt(**line))


@pytest.mark.parametrize("task", ["figure", "subject"])
def test_the_prompts_of_the_learning_tasks_describe_theirs(reward, tmp_path, task):
    made = TASKS[task](2)
    write_task(made, tmp_path / task)
    for line in made.tests:
        reward.check_prompt(prompt(**line))


def test_overlaps_in_the_wrong_order_are_an_error(build_scorer_of):
    with pytest.raises(
        InstantiationException, match=r"least_overlap=0\.95 must be below reward\.certain_overlap=0\.9"
    ):
        build_scorer_of("figure_match", least_overlap=0.95)
