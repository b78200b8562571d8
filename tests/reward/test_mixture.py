import pytest
import torch

from diffopd.reward.checked import RewardError
from diffopd.reward.mixture import MixtureReward
from diffopd.types import Prompts, Scores

PROMPTS = Prompts(("a", "b"), ("t", "t"), ({}, {}), (0, 1), (0, 1))
IMAGES = torch.zeros(2, 3, 4, 4)


def constant(*values):
    return lambda images, prompts: Scores(torch.tensor(values), {}, "any")


def test_weighted_mean_and_parts():
    mixture = MixtureReward(
        rewards={"x": constant(0.0, 1.0), "y": constant(1.0, 1.0)}, weights={"x": 1.0, "y": 3.0}
    )
    scores = mixture(IMAGES, PROMPTS)
    assert scores.value.tolist() == [0.75, 1.0]
    assert scores.parts["x"].tolist() == [0, 1]
    assert set(scores.parts) == {"x", "y"}


def test_only_ratios_of_weights_matter():
    rewards = {"x": constant(0.0, 1.0), "y": constant(1.0, 0.5)}
    one = MixtureReward(rewards=rewards, weights={"x": 1.0, "y": 1.0})(IMAGES, PROMPTS)
    ten = MixtureReward(rewards=rewards, weights={"x": 10.0, "y": 10.0})(IMAGES, PROMPTS)
    torch.testing.assert_close(one.value, ten.value, rtol=1e-6, atol=0)


def test_member_that_fails_is_named():
    mixture = MixtureReward(rewards={"faulty": constant(0.0, float("nan"))}, weights={"faulty": 1.0})
    with pytest.raises(RewardError, match=r"faulty .* returned 'value' = nan for sample 1"):
        mixture(IMAGES, PROMPTS)


def test_weights_must_match_and_be_positive():
    with pytest.raises(ValueError, match="name each reward once"):
        MixtureReward(rewards={"x": constant(0.0)}, weights={"y": 1.0})
    with pytest.raises(ValueError, match="must be positive"):
        MixtureReward(rewards={"x": constant(0.0)}, weights={"x": 0.0})
