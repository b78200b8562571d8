"""Random figures: what their index decides, what captions say of them, and who may see them."""

import numpy as np
import pytest

from diffopd.data.drawings import figure_drawing, restyled, shows_figure, training_drawing
from diffopd.world.colours import COLOURS
from diffopd.world.draw import SIDES, draw
from diffopd.world.figure_request import (
    POSITIONS,
    SIZES,
    FigureRequest,
    figure_caption,
    figure_scene,
    random_figure_request,
)
from diffopd.world.figures import figure_masks, is_held_out_figure, random_figure
from diffopd.world.scene import IMAGE_SIZE
from diffopd.world.styles import STYLES, woven

INDICES = (1, 2, 3, 77, 2**31 - 1)


@pytest.mark.parametrize("index", INDICES)
def test_a_figure_has_two_parts_that_fill_its_square(index):
    masks = figure_masks(index, 40)
    whole = masks.sum(0)
    assert masks.min() >= 0
    assert whole.max() <= 1
    assert all(mask.sum() > 8 for mask in masks)
    for side in (whole[:2], whole[-2:], whole[:, :2], whole[:, -2:]):
        assert side.max() > 0


def test_figures_differ_in_form():
    outlines = [figure_masks(index, 20).sum(0) for index in range(1, 40)]
    overlaps = [
        2 * np.minimum(a, b).sum() / (a.sum() + b.sum()) for i, a in enumerate(outlines) for b in outlines[:i]
    ]
    assert np.mean(overlaps) < 0.8
    assert np.max(overlaps) < 0.99


def test_some_figures_have_a_hole():
    def middle(index: int) -> float:
        return float(figure_masks(index, 40)[:, 14:26, 14:26].sum(0).min())

    holes = [middle(index) == 0 for index in range(200)]
    assert 0.3 < np.mean(holes) < 0.9


def test_figures_of_either_side_of_the_split():
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        found = [random_figure(rng, held_out) for _ in range(100)]
        assert [is_held_out_figure(index) for index in found] == [held_out] * 100
        assert len(set(found)) > 95


def test_a_large_drawing_of_a_figure_is_the_small_one_in_more_detail():
    scene = figure_scene(FigureRequest(), np.random.default_rng(1), index=5)
    small, large = (draw(scene, side).astype(float) for side in SIDES)
    halved = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("position", POSITIONS)
def test_a_scene_shows_what_was_asked_for(size, position):
    request = FigureRequest(colours=("red", "blue"), size=size, position=position, place="fog")
    for seed in range(5):
        scene = figure_scene(request, np.random.default_rng(seed))
        (figure,) = scene.figures
        assert scene.place == "fog"
        assert figure.colours == ("red", "blue")
        assert figure.size == SIZES[size] - 2
        for start, first, last in ((figure.left, "left", "right"), (figure.top, "top", "bottom")):
            middle = start + figure.size / 2 - IMAGE_SIZE / 2
            if first in position:
                assert middle < -4
            elif last in position:
                assert middle > 4
            else:
                assert abs(middle) <= 3
        assert not is_held_out_figure(figure.index)


def test_captions_name_everything_but_the_form():
    request = FigureRequest("plim", ("orange", "blue"), "large", "at the top", "snow")
    assert figure_caption(request) == "a photo of a large orange and blue plim at the top in the snow"
    assert figure_caption(FigureRequest(colours=("orange", "blue"))) == "a photo of an orange and blue figure"
    rng = np.random.default_rng(0)
    same = [figure_caption(random_figure_request(rng, same=True)) for _ in range(50)]
    assert all("the same" in text for text in same)
    assert not any(colour in text for text in same for colour in COLOURS)


def test_two_drawings_of_a_figure_share_its_form_and_colours():
    requests, colours = [], []
    for again in (False, True):
        drawing = figure_drawing(0, 11, side=32, again=again, figure=9)
        requests.append(drawing.request)
        muted = np.ptp(drawing.pixels.reshape(-1, 3).astype(int), axis=1) < 70
        seen = {tuple(pixel) for pixel in drawing.pixels.reshape(-1, 3)[~muted]}
        colours.append({name for name, rgb in COLOURS.items() if rgb in seen})
    assert not requests[0].same
    assert requests[1].same
    assert colours[0] == colours[1]
    assert len(colours[0]) == 2


def test_a_share_of_drawings_is_in_another_style():
    drawn = {index: training_drawing(3, index, 0.2, side=32).pixels for index in range(60)}
    shown = {index: restyled(3, index, pixels, 0.4) for index, pixels in drawn.items()}
    changed = [index for index in drawn if not np.array_equal(shown[index], drawn[index])]
    assert 14 <= len(changed) <= 34
    styles = [*STYLES.values(), woven]
    used = {
        number
        for index in changed
        for number, style in enumerate(styles)
        if np.array_equal(shown[index], style(drawn[index]))
    }
    assert used == set(range(len(styles)))
    assert all(restyled(3, index, pixels, 0.0) is pixels for index, pixels in drawn.items())
    assert all(
        np.array_equal(restyled(3, index, drawn[index], 0.4), shown[index]) for index in (0, changed[0])
    )


def test_drawings_without_figures_are_as_they_were():
    drawings = [training_drawing(3, index, 0.2, side=32) for index in range(3)]
    sums = [int(drawing.pixels.astype(int).sum()) for drawing in drawings]
    mixed = [index for index in range(60) if not shows_figure(3, index, 0.4)][:3]
    assert 20 < sum(shows_figure(3, index, 0.4) for index in range(60)) < 36 or len(mixed) == 3
    for index in mixed:
        with_figures = training_drawing(3, index, 0.2, side=32, figure_share=0.4)
        assert (with_figures.pixels == training_drawing(3, index, 0.2, side=32).pixels).all()
    assert all(value > 0 for value in sums)
