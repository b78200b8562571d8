import json
from pathlib import Path

import pytest
import torch

from diffopd.reward.advantage import advantages, batch_advantages, clip_advantages, group_advantages

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden/advantages.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"global={c['global_std']}-{len(c['rewards'])}")
def test_group_advantages_equal_the_published_tracker(case):
    ids = {prompt: i for i, prompt in enumerate(dict.fromkeys(case["prompts"]))}
    groups = [ids[prompt] for prompt in case["prompts"]]
    std = "global" if case["global_std"] else "group"
    rewards = torch.tensor(case["rewards"], dtype=torch.float64)
    expected = torch.tensor(case["advantages"], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards, groups, std=std), expected, rtol=0, atol=1e-12)
    single = len(ids) == len(groups)
    torch.testing.assert_close(
        advantages(rewards, groups, std=std),
        batch_advantages(rewards) if single else expected,
        rtol=0,
        atol=1e-12,
    )


def test_worked_by_hand():
    rewards = torch.tensor(
        [0.0, 4.0, 1.0, 1.0], dtype=torch.float64
    )  # group means 2, 1; overall variance 2.25
    global_std = group_advantages(rewards, [7, 7, 3, 3], std="global")
    assert global_std.tolist() == pytest.approx([-2 / 1.5001, 2 / 1.5001, 0, 0])
    group_std = group_advantages(rewards, [7, 7, 3, 3], std="group")
    assert group_std.tolist() == pytest.approx([-2 / 2.0001, 2 / 2.0001, 0, 0])


def test_single_sample_groups_fall_back_to_the_whole_batch():
    rewards = torch.tensor([0.0, 2.0])
    assert advantages(rewards, [0, 1], std="group").tolist() == pytest.approx([-1 / 1.0001, 1 / 1.0001])
    assert group_advantages(rewards, [0, 1], std="group").tolist() == [0, 0]
    assert advantages(rewards[:1], [0], std="global").tolist() == [0]


def test_advantages_carry_no_gradient():
    rewards = torch.rand(4, requires_grad=True)
    assert not advantages(rewards, [0, 0, 1, 1], std="global").requires_grad


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("all", [-5, -1, 0, 2, 5]),
        ("positive_only", [0, 0, 0, 2, 5]),
        ("negative_only", [-5, -1, 0, 0, 0]),
        ("one_only", [0, 0, 0, 1, 1]),
        ("binary", [-1, -1, 0, 1, 1]),
    ],
)
def test_modes(mode, expected):
    assert (
        clip_advantages(torch.tensor([-7.0, -1.0, 0.0, 2.0, 9.0]), clip=5.0, mode=mode).tolist() == expected
    )


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="one number per reward"):
        group_advantages(torch.zeros(3), [0, 1], std="global")
