import pytest
import torch

from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.mixture import MixtureReward
from diffopd.types import Prompts, Scores

PROMPTS = Prompts(("a", "b"), ("t", "t"), ({}, {}), (0, 1), (0, 1))
IMAGES = torch.zeros(2, 3, 4, 4)


def constant(*values):
    return lambda images, prompts: Scores(torch.tensor(values), {}, "any")


def mixture(rewards, weights, normalize="none"):
    return MixtureReward(rewards=rewards, weights=weights, normalize=normalize)


def four(groups=(5, 5, 6, 6), tasks=("t",) * 4):
    return torch.zeros(4, 3, 4, 4), Prompts(tuple("aabb"), tasks, ({},) * 4, (0, 1, 2, 3), groups)


def test_weighted_mean_and_parts():
    scores = mixture({"x": constant(0.0, 1.0), "y": constant(1.0, 1.0)}, {"x": 1.0, "y": 3.0})(
        IMAGES, PROMPTS
    )
    assert scores.value.tolist() == [0.75, 1.0]
    assert scores.parts["x"].tolist() == [0, 1]
    assert set(scores.parts) == {"x", "y"}


@pytest.mark.parametrize("normalize", ["none", "per_group"])
def test_only_ratios_of_weights_matter(normalize):
    rewards = {"x": constant(0.0, 1.0, 3.0, 5.0), "y": constant(1.0, 0.5, 2.0, 2.0)}
    one = mixture(rewards, {"x": 1.0, "y": 1.0}, normalize)(*four())
    ten = mixture(rewards, {"x": 10.0, "y": 10.0}, normalize)(*four())
    torch.testing.assert_close(one.value, ten.value, rtol=1e-6, atol=0)


def test_each_part_is_standardised_within_its_prompt():
    rewards = {"wide": constant(10.0, 30.0, 7.0, 7.0), "narrow": constant(0.3, 0.1, 0.2, 0.6)}
    scores = mixture(rewards, {"wide": 1.0, "narrow": 3.0}, "per_group")(*four())
    # Two samples are one standard deviation either side of their mean: wide is -1, 1 and 0, 0 (all alike);
    # narrow is 1, -1 (std 0.1) and -1, 1 (std 0.2), up to the 1e-4 added to each deviation.
    wide, narrow, other = 10 / 10.0001, 0.1 / 0.1001, 0.2 / 0.2001
    expected = [(-wide + 3 * narrow) / 4, (wide - 3 * narrow) / 4, -3 * other / 4, 3 * other / 4]
    assert scores.value.tolist() == pytest.approx(expected, abs=1e-6)
    assert scores.parts["wide"].tolist() == [10, 30, 7, 7]
    assert scores.parts["narrow"].tolist() == pytest.approx([0.3, 0.1, 0.2, 0.6])
    assert "standard deviations among the samples of a prompt" in scores.scale


def test_without_it_the_wide_part_outweighs_the_narrow_one():
    rewards = {"wide": constant(10.0, 30.0, 7.0, 7.0), "narrow": constant(0.3, 0.1, 0.2, 0.6)}
    plain = mixture(rewards, {"wide": 1.0, "narrow": 3.0})(*four()).value
    assert plain[1] > plain[0]
    assert mixture(rewards, {"wide": 1.0, "narrow": 3.0}, "per_group")(*four()).value.diff()[0] < 0


def test_equal_numbers_of_different_tasks_are_different_prompts():
    rewards = {"x": constant(0.0, 100.0, 2.0, 104.0)}
    interleaved = four(groups=(0, 0, 0, 0), tasks=("dark", "light", "dark", "light"))
    value = mixture(rewards, {"x": 1.0}, "per_group")(*interleaved).value
    assert value.tolist() == pytest.approx([-1, -1, 1, 1], abs=1e-3)


def test_a_prompt_with_one_sample_is_refused():
    reward = mixture({"x": constant(0.0, 1.0, 2.0, 3.0)}, {"x": 1.0}, "per_group")
    message = r"^reward\.normalize=per_group \(MixtureReward\) compares .* sample 2 .*group_size to 2 or more"
    with pytest.raises(RewardError, match=message) as refused:
        score_checked(reward, *four(groups=(5, 5, 6, 7)), "reward")
    assert refused.value.sample.prompt.indices == (2,)


def test_member_that_fails_is_named():
    faulty = mixture({"faulty": constant(0.0, float("nan"))}, {"faulty": 1.0})
    with pytest.raises(RewardError, match=r"faulty .* returned 'value' = nan for sample 1"):
        faulty(IMAGES, PROMPTS)


@pytest.mark.usefixtures("unchecked_shapes")
def test_settings_are_checked():
    with pytest.raises(ValueError, match="name each reward once"):
        mixture({"x": constant(0.0)}, {"y": 1.0})
    with pytest.raises(ValueError, match="must be positive"):
        mixture({"x": constant(0.0)}, {"x": 0.0})
    with pytest.raises(ValueError, match=r"reward\.normalize=group must be one of none, per_group"):
        mixture({"x": constant(0.0)}, {"x": 1.0}, "group")
