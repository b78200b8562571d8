"""Layouts of pictures, and what counts as a leak."""

from __future__ import annotations

import json

import pytest
import torch

from diffopd.metric.leak import Leak, layouts, nearest_distance, nearest_layout


def left_and_right(left, right, side=32):
    image = torch.empty(1, 3, side, side)
    image[..., : side // 2], image[..., side // 2 :] = left, right
    return image


def test_a_layout_is_what_is_where_whatever_brightness_and_size():
    dark, bright, turned = left_and_right(0, 1), left_and_right(0.4, 0.6, side=64), left_and_right(1, 0)
    found = torch.cat([layouts(dark), layouts(bright), layouts(turned)])
    torch.testing.assert_close(found @ found.T, torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]))
    assert (layouts(torch.full((1, 3, 32, 32), 0.3)) == 0).all()  # one color has none
    pictures = torch.cat([turned, torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))])
    torch.testing.assert_close(nearest_layout(turned, pictures), torch.ones(1))


def test_the_distance_is_from_the_nearest():
    others = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    torch.testing.assert_close(
        nearest_distance(torch.tensor([[1.0, 1.0], [3.0, 2.0]]), others), torch.tensor([1.0, 0.5])
    )


def leak(trained, base, least_rise=0.1, latent=None):
    latent = 1.5 * torch.ones(len(trained)) if latent is None else torch.tensor(latent)
    return Leak(
        prompts=[f"a thing {number}" for number in range(len(trained))],
        layout=(torch.tensor(trained), torch.tensor(base)),
        latent=(latent, 2 * torch.ones(len(trained))),
        num_draws=1,
        least_rise=least_rise,
        least_approach=0.5,
    )


def test_a_leak_is_a_rise_over_the_base_model_that_is_large_and_clear():
    found = leak([0.7, 0.8, 0.9], [0.2, 0.3, 0.5])
    assert found.rise.mean == pytest.approx((0.5 + 0.5 + 0.4) / 3)
    assert found.leaks
    (problem,) = found.problems
    assert problem.startswith(
        "the teacher leaks the layout of its pictures into other prompts: samples of 3 other"
    )
    assert "0.800 with the nearest training picture, the base model's from the same noise 0.333" in problem
    assert not leak([0.7, 0.8, 0.9], [0.7, 0.8, 0.9]).leaks  # as similar as before
    assert not leak([0.25, 0.35, 0.55], [0.2, 0.3, 0.5]).leaks  # little
    assert not leak([0.9, 0.1, 0.3], [0.2, 0.3, 0.35]).leaks  # of one prompt alone
    kept = json.loads(json.dumps(found.to_json()))
    assert kept["prompts"][2]["layout"] == {"trained": pytest.approx(0.9), "base": pytest.approx(0.5)}


def test_prompts_are_forgotten_whose_samples_come_much_nearer_to_the_pictures():
    """As pictures of a subject do, or empty ones: their layouts need not be alike."""
    same = [0.3, 0.4, 0.5]
    found = leak(same, same, latent=[0.5, 0.25, 0.75])
    assert found.approach.mean == pytest.approx(1 - 0.5 / 2)
    assert found.forgets
    assert not found.leaks
    (problem,) = found.problems
    assert problem.startswith("other prompts are forgotten: their samples are 75% nearer to the training")
    assert "+experiment=dopsd_keep keeps other prompts" in problem
    assert found.to_json()["forgets"]
    assert not leak(same, same).forgets  # a quarter nearer
    assert not leak(same, same, latent=[0.0, 0.1, 2.5]).forgets  # not all of them
