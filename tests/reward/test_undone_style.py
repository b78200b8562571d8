"""Drawings in a style score as they did before it; drawings in none do not."""

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException

from diffopd.world.styles import inverted, unwoven, woven

FORMS = ("single_object", "colors", "position", "color_attr")


def styled(change, images):
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([change(x) for x in pixels])).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(("style", "change", "most"), [("inverted", inverted, 0.2), ("woven", woven, 0)])
def test_a_picture_in_the_style_is_scored_and_one_in_none_is_not(
    build_scorer_of, drawings, style, change, most
):
    reward = build_scorer_of("undone_style", style=style)
    images, prompts = drawings(FORMS, 24, seed=1)
    assert reward(styled(change, images), prompts).value.mean() == 1
    assert reward(images, prompts).value.mean() <= most
    assert f"style {style} undone" in reward(images, prompts).scale


def test_what_is_woven_is_had_back_within_rounding(drawings):
    images, _ = drawings(FORMS, 4, seed=1)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for image in pixels:
        error = np.abs(unwoven(woven(image)).astype(int) - image)
        # Threads of 1.1 leave 255 where a channel is above 207 or so; the rest is rounding over .55.
        assert np.quantile(error, 0.9) <= 2


def test_a_picture_without_threads_is_not_woven(build_scorer_of, drawings):
    images, prompts = drawings(FORMS, 8, seed=1)
    mixed = torch.cat([images[:4], styled(woven, images[4:])])
    parts = build_scorer_of("undone_style", style="woven")(mixed, prompts).parts
    assert parts["in_style"].tolist() == [0] * 4 + [1] * 4


def test_the_good_image_is_in_the_style(build_scorer_of):
    reward = build_scorer_of("undone_style")
    pair = reward.known_pair()
    better, worse = (reward(image[None], pair.prompt).value.item() for image in (pair.better, pair.worse))
    assert (better, worse) == (1, 0)


def test_a_style_that_loses_something_is_an_error(build_scorer_of):
    with pytest.raises(
        InstantiationException, match=r"reward\.style=outlines must be one of inverted, woven"
    ):
        build_scorer_of("undone_style", style="outlines")
