import functools

import pytest
import torch

from diffopd.reward.by_task import RewardByTask
from diffopd.reward.checked import RewardError, name_of, score_checked
from diffopd.reward.mixture import MixtureReward
from diffopd.types import Prompts, Scores

PROMPTS = Prompts(("a cat", "a dog", "a cup"), ("t",) * 3, ({},) * 3, (40, 41, 42), (0, 1, 2))
IMAGES = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4) / 4


def returning(value, parts=None):
    return lambda images, prompts: Scores(torch.as_tensor(value), parts or {}, "any")


class Judge:
    """A reward as users write one."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, images, prompts):
        return self.answer


def refusal(reward, images=IMAGES, prompts=PROMPTS):
    with pytest.raises(RewardError) as refused:
        score_checked(reward, images, prompts, "reward")
    return refused.value


def test_sound_scores_pass_unchanged():
    given = Scores(torch.tensor([1.0, -2.0, 0.0]), {"edge": torch.zeros(3)}, "any")
    assert score_checked(Judge(given), IMAGES, PROMPTS, "reward") is given


@pytest.mark.parametrize("values", [[0.5, 0.25, 0.0], [2, 0, 1], [True, False, True]])
def test_a_plain_tensor_becomes_the_value(values):
    scores = score_checked(Judge(torch.tensor(values)), IMAGES, PROMPTS, "reward")
    assert scores.value.dtype == torch.float32
    assert scores.value.tolist() == values
    assert scores.parts == {}
    assert scores.scale == "as Judge returns it"


def test_gradients_pass():
    images = IMAGES.clone().requires_grad_()
    reward = lambda images, prompts: images.mean((1, 2, 3))  # noqa: E731
    score_checked(reward, images, PROMPTS, "reward").value.sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("plain", [True, False])
def test_a_value_that_is_not_finite(bad, plain):
    values = torch.tensor([1.0, bad, 0.0])
    error = refusal(Judge(values if plain else Scores(values, {}, "any")))
    assert str(error) == f"reward (Judge) returned 'value' = {bad} for sample 41 (task 't', prompt 'a dog')"
    assert error.sample.prompt == PROMPTS.select([1])
    assert torch.equal(error.sample.image, IMAGES[1])


def test_parts_are_checked_too():
    error = refusal(returning([0.0] * 3, {"edge": torch.tensor([0, 0, torch.nan])}))
    assert "returned 'edge' = nan for sample 42" in str(error)


def test_a_part_of_one_task_says_nothing_of_others():
    prompts = Prompts(PROMPTS.texts, ("dark", "light", "dark"), *PROMPTS._columns()[2:])
    parts = {"dark/edge": torch.tensor([0, torch.nan, 1])}
    assert score_checked(returning([0.0] * 3, parts), IMAGES, prompts, "reward").parts == parts
    parts = {"light/edge": torch.tensor([0, torch.nan, 1])}
    assert "'light/edge' = nan for sample 41" in str(refusal(returning([0.0] * 3, parts), prompts=prompts))


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (torch.zeros(2), "must return one number per image, got 'value' of shape (2,) for 3 images"),
        (torch.zeros(3, 1), "'value' of shape (3, 1) for 3 images; return a tensor of shape (3,)"),
        (torch.tensor(1.0), "'value' of shape () for 3 images"),
        ([0.0, 0.0, 0.0], "must return a tensor with one number per image, or Scores, got list for 3"),
        (None, "or Scores, got NoneType for 3 images"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_answers_of_another_shape_or_type(answer, came):
    error = refusal(Judge(answer))
    assert str(error).startswith("reward (Judge) must return")
    assert came in str(error)
    assert error.sample.prompt.indices == (40,)


@pytest.mark.usefixtures("unchecked_shapes")
def test_scores_hold_tensors():
    assert "got 'value' of list for 3 images" in str(refusal(Judge(Scores([0.0] * 3, {}, "any"))))


@pytest.mark.parametrize(
    ("parts", "scale", "came"),
    [
        (None, "any", "NoneType and str"),
        ({1: torch.zeros(3)}, "any", "dict and str"),
        ({}, None, "dict and NoneType"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_scores_name_their_parts_and_their_scale(parts, scale, came):
    error = refusal(Judge(Scores(torch.zeros(3), parts, scale)))
    assert f"parts are a mapping of names to tensors and whose scale is a text, got {came}" in str(error)


def test_what_cannot_be_printed_is_told_by_its_kind():
    class SilentError(Exception):
        def __str__(self):
            raise OSError("gone")

    def silent(images, prompts):
        raise SilentError

    assert "raised SilentError (which cannot be printed), for sample 40" in str(refusal(silent))


def test_a_reward_that_raises_is_asked_again_sample_by_sample():
    def fragile(images, prompts):
        sizes.append(len(prompts))
        if "a dog" in prompts.texts:
            raise OSError(f"no reply to {len(prompts)}")
        return torch.zeros(len(prompts))

    sizes = []
    error = refusal(fragile)
    assert str(error) == (
        "reward (fragile) raised OSError: no reply to 1, for sample 41 (task 't', prompt 'a dog')"
    )
    assert isinstance(error.__cause__, OSError)
    assert torch.equal(error.sample.image, IMAGES[1])
    assert sizes == [3, 1, 1]


def test_a_sound_batch_is_scored_once():
    sizes = []
    score_checked(
        lambda images, prompts: sizes.append(len(prompts)) or torch.zeros(3), IMAGES, PROMPTS, "reward"
    )
    assert sizes == [3]


def test_a_reward_that_fails_only_on_the_batch_says_so():
    def small(images, prompts):
        if len(prompts) > 1:
            raise MemoryError("too large")
        return torch.zeros(1)

    error = refusal(small)
    assert "raised MemoryError: too large, for the batch of 3 as a whole; each sample alone can" in str(error)
    assert error.sample.prompt.indices == (40,)


def test_the_place_in_the_config_is_told_through_all_rewards_on_the_way():
    inner = MixtureReward(
        rewards={"faulty": Judge(torch.full((1,), torch.nan))}, weights={"faulty": 1.0}, normalize="none"
    )
    error = refusal(RewardByTask(rewards={"t": inner}), IMAGES[2:], PROMPTS.select([2]))
    assert str(error).startswith(
        "reward.rewards.t.rewards.faulty (Judge) returned 'value' = nan for sample 42"
    )


def test_names_of_rewards():
    def brightness(images, prompts, factor):
        return images.mean((1, 2, 3)) * factor

    assert name_of(Judge(None)) == "Judge"
    assert name_of(brightness) == "brightness"
    assert name_of(functools.partial(brightness, factor=2)) == "brightness"


@pytest.mark.parametrize("bad", [float("nan"), -0.5, 1.5])
def test_images_must_be_finite_and_in_range(bad):
    images = IMAGES.clone()
    images[2, 0, 0, 0] = bad
    error = refusal(returning([0.0] * 3), images)
    assert "needs finite images in [0, 1]" in str(error)
    assert error.sample.prompt.indices == (42,)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 1, 4, 4), (3, 4, 4)])
def test_images_must_be_one_rgb_per_prompt(shape):
    error = refusal(returning([0.0] * 3), torch.zeros(shape))
    assert "one prompt each" in str(error)
    assert error.sample is None
