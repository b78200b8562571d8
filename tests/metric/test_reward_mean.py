import pytest
import torch

from diffopd.metric.reward_mean import RewardMean
from diffopd.reward.checked import RewardError
from diffopd.types import Prompts, Scores


def prompts(indices, tags):
    n = len(indices)
    return Prompts(("p",) * n, ("t",) * n, tuple({"tag": tag} for tag in tags), tuple(indices), (0,) * n)


def scores(*values):
    value = torch.tensor(values)
    return Scores(value, {"double": 2 * value, "unused": value}, "any")


def brightness(images, rows):
    value = images.mean((1, 2, 3))
    return Scores(value, {"double": 2 * value}, "any")


def metric(tags=()):
    return RewardMean(reward=brightness, parts=["double"], tags=tags)


def test_overall_is_the_mean_over_tags():
    m = metric(tags=("colors", "position", "counting"))
    m.update(scores(1.0, 0.0), prompts([0, 1], ["colors", "colors"]))
    m.update(scores(1.0), prompts([2], ["position"]))
    result = m.compute()
    assert result["value"] == pytest.approx(0.75)  # (1/2 + 1) / 2, not 2/3; no counting prompt came
    assert result["double"] == pytest.approx(1.5)
    assert result["colors/value"] == pytest.approx(0.5)
    assert result["position/double"] == pytest.approx(2)
    assert "counting/value" not in result
    assert result["num_images"] == 3


def test_without_tags_it_is_the_plain_mean():
    m = metric()
    m.update(scores(1.0, 0.0, 1.0), prompts([0, 1, 2], ["colors", "colors", "position"]))
    assert set(m.compute()) == {"value", "double", "num_images"}
    assert m.compute()["value"] == pytest.approx(2 / 3)


def test_images_are_scored_by_the_reward():
    m = metric()
    images = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    m.update(images, prompts([0, 1], ["x", "x"]))
    assert m.compute()["value"] == pytest.approx(0.5)


def test_a_reward_may_return_a_plain_tensor_and_is_checked():
    m = RewardMean(reward=lambda images, rows: images.mean((1, 2, 3)), parts=[], tags=[])
    images = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    m.update(images, prompts([0, 1], ["x", "x"]))
    assert m.compute()["value"] == pytest.approx(0.5)
    m.reward = lambda images, rows: images.mean((1, 2, 3)).log().log()
    with pytest.raises(RewardError, match="'value' = nan for sample 0"):
        m.update(images, prompts([0, 1], ["x", "x"]))


def test_padding_counts_once_and_samples_come_in_order():
    m = metric()
    m.update(scores(0.3, 0.1), prompts([3, 1], ["x", "x"]))
    m.update(scores(0.2, 0.1), prompts([2, 1], ["x", "x"]))
    assert m.samples().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert m.samples("double").tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert m.compute()["num_images"] == 3


def test_processes_merge_to_what_one_process_has():
    """Concatenated states, as torchmetrics gathers them, give the scores of the whole set."""
    tags = ("a", "b")
    whole, left, right = metric(tags), metric(tags), metric(tags)
    first, second = prompts([0, 2], ["a", "b"]), prompts([1, 3, 0], ["a", "a", "a"])
    for m in (whole, left):
        m.update(scores(0.1, 0.4), first)
    for m in (whole, right):
        m.update(scores(0.9, 0.5, 0.1), second)
    for state in ("indices", "tag_numbers", "values"):
        setattr(left, state, torch.cat(getattr(left, state) + getattr(right, state)))
    assert left._samples()[0].tolist() == [0, 1, 2, 3]
    expected = whole.compute()
    for name, value in left.compute().items():
        assert value == pytest.approx(expected[name])


def test_reset_forgets():
    m = metric()
    m.update(scores(1.0), prompts([0], ["x"]))
    m.reset()
    m.update(scores(0.0), prompts([0], ["x"]))
    assert m.compute()["value"] == 0


def test_interval_is_of_the_tag_mean():
    m = metric(tags=("a", "b"))
    m.update(scores(0.0, 0.0, 0.0, 1.0, 3.0), prompts([0, 1, 2, 3, 4], ["a", "a", "a", "b", "b"]))
    interval = m.interval()
    assert (interval.mean, interval.low, interval.high) == (1.0, 0.5, 1.5)


def test_refusals():
    with pytest.raises(ValueError, match="holds no images"):
        metric().samples()
    with pytest.raises(ValueError, match=r"tags \['c'\]; metric.tags has \['a'\]"):
        metric(("a",)).update(scores(0.0), prompts([0], ["c"]))
    with pytest.raises(ValueError, match=r"names \['absent'\]; the reward has \['double', 'unused'\]"):
        RewardMean(reward=brightness, parts=["absent"], tags=()).update(scores(0.0), prompts([0], ["c"]))
