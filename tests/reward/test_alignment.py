"""The reward that hears the prompt: what raises it, what must not."""

from functools import cache

import numpy as np
import pytest
import torch

from diffopd.reward.drawn.alignment import AlignmentReward, alignment
from diffopd.types import Prompts
from diffopd.world.colours import COLOURS
from diffopd.world.draw import draw
from diffopd.world.layout import random_scene
from diffopd.world.request import FORMS, Request, caption
from diffopd.world.scene import Object, Scene, Sign
from diffopd.world.split import random_request

WIDTH = 0.14


def pictures(scenes, side=64):
    return (
        torch.from_numpy(np.stack([draw(scene, side) for scene in scenes])).permute(0, 3, 1, 2).float() / 255
    )


def values(scenes, request, side=64):
    return alignment(pictures(scenes, side), [request] * len(scenes), colour_width=WIDTH).tolist()


@cache
def clean(form, number=24, side=64):
    requests, scenes = [], []
    for i in range(number):
        rng = np.random.default_rng((5, i))
        requests.append(random_request(form, rng, held_out=True))
        scenes.append(random_scene(requests[-1], rng, allow_held_out=True))
    return pictures(scenes, side), requests


@pytest.mark.parametrize("form", FORMS)
def test_a_clean_drawing_scores_more_than_another_prompts(form):
    images, requests = clean(form)
    own = alignment(images, requests, colour_width=WIDTH)
    others = alignment(images.roll(1, 0), requests, colour_width=WIDTH)
    assert own.quantile(0.05) > 0.7
    assert own.max() <= 1
    assert (own > others).float().mean() > 0.75
    assert others.mean() < own.mean() - 0.15


@pytest.mark.parametrize("form", ["painting", "two_object", "counting", "sign"])
def test_trivial_pictures_score_less_than_drawings(form):
    images, requests = clean(form)
    median = alignment(images, requests, colour_width=WIDTH).median()
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator)
    flats = (
        torch.tensor(list(COLOURS.values())).repeat(10, 1)[: len(images), :, None, None].expand(images.shape)
        / 255
    )
    for trivial in (noise, flats, images * 0, images.mean((2, 3), keepdim=True).expand_as(images)):
        assert alignment(trivial, requests, colour_width=WIDTH).max() < median - 0.15


def test_shape_colour_and_outline_count():
    def ring(shape="ring", colour="blue", size=14):
        return Scene("fog", 3, (Object(shape, colour, 9, 9, size),))

    asked = Request("painting", ("ring",), ("blue",), place="fog")
    right, circle, square, red, none = values(
        [ring(), ring("circle"), ring("square"), ring(colour="red"), Scene("fog", 3)], asked
    )
    assert right > 0.75
    assert circle < right - 0.2
    assert square < right - 0.2
    assert red < 0.1
    assert none < 0.1
    blurred = torch.nn.functional.avg_pool2d(pictures([ring()]), 17, 1, 8, count_include_pad=False)
    assert alignment(blurred, [asked], colour_width=WIDTH).item() < right - 0.15


def test_two_of_a_kind_must_both_be_there():
    asked = Request("counting", ("cross",), (None,), count=2)
    one, two = Object("cross", "red", 2, 2, 10), Object("cross", "red", 18, 18, 10)
    alone, both = values([Scene("fog", 0, (one,)), Scene("fog", 0, (one, two))], asked)
    assert both > 0.7
    assert alone < both / 2 + 0.1


def test_letters_count_one_by_one():
    asked = Request("sign", word="CAT")
    right, one_wrong, all_wrong, longer = values(
        [Scene("fog", 0, sign=Sign(word, 2)) for word in ("CAT", "CAR", "MEN", "CATS")], asked
    )
    assert right > one_wrong > all_wrong
    assert right > longer


def test_the_picture_may_have_either_side():
    images, requests = clean("painting")
    small, _ = clean("painting", side=32)
    large = alignment(images, requests, colour_width=WIDTH)
    assert (large - alignment(small, requests, colour_width=WIDTH)).abs().mean() < 0.03


def test_it_is_smooth_and_has_a_gradient():
    images, requests = clean("painting", number=4)
    a, b = images, images.roll(1, 0)

    def faded(t):
        return alignment((1 - t) * a + t * b, requests, colour_width=WIDTH)

    for t in np.linspace(0, 1, 11):
        assert (faded(t + 1e-3) - faded(t)).abs().max() < 0.03
    pixels = images.clone().requires_grad_()
    alignment(pixels, requests, colour_width=WIDTH).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()
    assert (pixels.grad.flatten(1).norm(dim=1) > 0).all()


def test_a_prompt_of_another_world_is_refused():
    reward = AlignmentReward(colour_width=WIDTH)
    with pytest.raises(ValueError, match="the drawn world has no such prompt: 'a dog'"):
        reward.check_prompt(Prompts(("a dog",), ("t",), ({},), (0,), (0,)))
    assert caption(Request("painting", ("ring",), ("red",))) == "a painting of a red ring"
