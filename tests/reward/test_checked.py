import pytest
import torch

from diffopd.reward.checked import RewardError, checked, score_checked
from diffopd.types import Prompts, Scores

PROMPTS = Prompts(("a cat", "a dog", "a cup"), ("t",) * 3, ({},) * 3, (40, 41, 42), (0, 1, 2))
IMAGES = torch.full((3, 3, 4, 4), 0.5)


def returning(value, parts=None):
    return lambda images, prompts: Scores(torch.as_tensor(value), parts or {}, "any")


def test_sound_scores_pass_unchanged():
    scores = score_checked(returning([1.0, -2.0, 0.0]), IMAGES, PROMPTS)
    assert scores.value.tolist() == [1, -2, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_score_that_is_not_finite_names_sample_prompt_and_scorer(bad):
    with pytest.raises(RewardError, match=r"judge returned 'value' = (nan|inf) for sample 41 .*'a dog'"):
        score_checked(returning([1.0, bad, 0.0]), IMAGES, PROMPTS, name="judge")


def test_parts_are_checked_too():
    with pytest.raises(RewardError, match=r"'edge' = nan for sample 42"):
        score_checked(returning([0.0] * 3, {"edge": torch.tensor([0, 0, torch.nan])}), IMAGES, PROMPTS)


def test_too_few_scores():
    with pytest.raises(RewardError, match="one number per image"):
        score_checked(returning([0.0, 1.0]), IMAGES, PROMPTS)


def test_scorer_that_raises_names_the_row_that_does_it():
    def fragile(images, prompts):
        if "a cup" in prompts.texts:
            raise OSError("no reply")
        return Scores(torch.zeros(len(prompts)), {}, "any")

    with pytest.raises(RewardError, match=r"judge could not score sample 42 .*'a cup'.*OSError: no reply"):
        score_checked(fragile, IMAGES, PROMPTS, name="judge")


def test_scorer_that_fails_only_on_the_batch_says_so():
    def small(images, prompts):
        if len(prompts) > 1:
            raise MemoryError("too large")
        return Scores(torch.zeros(1), {}, "any")

    with pytest.raises(RewardError, match="batch as a whole"):
        score_checked(small, IMAGES, PROMPTS)


@pytest.mark.parametrize("bad", [float("nan"), -0.5, 1.5])
def test_images_must_be_finite_and_in_range(bad):
    images = IMAGES.clone()
    images[2, 0, 0, 0] = bad
    with pytest.raises(RewardError, match=r"finite images in \[0, 1\].*sample 42"):
        score_checked(returning([0.0] * 3), images, PROMPTS)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 1, 4, 4), (3, 4, 4)])
def test_images_must_be_one_rgb_per_prompt(shape):
    with pytest.raises(RewardError, match="one prompt each"):
        score_checked(returning([0.0] * 3), torch.zeros(shape), PROMPTS)


def test_decorated_reward_is_called_by_its_class_name():
    class Judge:
        @checked
        def __call__(self, images, prompts):
            return Scores(torch.full((len(prompts),), torch.nan), {}, "any")

    with pytest.raises(RewardError, match="Judge returned 'value' = nan for sample 40"):
        Judge()(IMAGES, PROMPTS)
