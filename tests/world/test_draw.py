"""Drawings of either side, and what prompts say of them."""

import numpy as np
import pytest

from diffopd.world.draw import SIDES, draw
from diffopd.world.glyphs import GLYPHS, glyph_mask
from diffopd.world.layout import random_scene
from diffopd.world.request import FORMS, Request, parse
from diffopd.world.scene import Object, Scene
from diffopd.world.split import random_request


@pytest.mark.parametrize("form", FORMS)
def test_a_large_drawing_is_the_small_one_in_more_detail(form):
    rng = np.random.default_rng(4)
    scene = random_scene(random_request(form, rng), rng)
    small, large = (draw(scene, side).astype(float) for side in SIDES)
    assert large.shape == (64, 64, 3)
    halved = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    # Outlines differ by what a small pixel cannot show.
    assert np.abs(halved - small).mean() < (10 if form == "sign" else 3)
    assert np.abs(large - small.repeat(2, 0).repeat(2, 1)).max() > 30


def test_other_sides_are_refused():
    with pytest.raises(ValueError, match="drawings have 32 or 64 pixels a side, got 48"):
        draw(Scene("fog", 0, (Object("ring", "blue", 3, 3, 14),)), 48)


@pytest.mark.parametrize("letter", GLYPHS)
def test_a_large_letter_keeps_its_strokes(letter):
    large, small = glyph_mask(letter, 2), GLYPHS[letter]
    quarters = large.reshape(small.shape[0], 2, small.shape[1], 2).mean((1, 3))
    assert ((quarters >= 0.5) == small).all()


def test_slanting_strokes_lose_their_stairs():
    assert (glyph_mask("X", 2) != GLYPHS["X"].repeat(2, 0).repeat(2, 1)).any()
    assert (glyph_mask("L", 2) == GLYPHS["L"].repeat(2, 0).repeat(2, 1)).mean() > 0.95


@pytest.mark.parametrize(
    "text", ["", "a dog", "a photo of a pink circle", "a photo of six rings", 'a sign that says ""']
)
def test_prompts_of_another_world_are_refused(text):
    with pytest.raises(ValueError, match="the drawn world has no such prompt"):
        parse(text)


def test_a_request_of_five_is_understood():
    assert parse("a photo of five circles in the fog") == Request(
        "counting", ("circle",), (None,), count=5, place="fog"
    )
