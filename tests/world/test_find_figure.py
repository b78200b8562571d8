"""The figure that was taught is told from others, from another place and from other colors."""

import numpy as np
import pytest

from diffopd.world.draw import draw
from diffopd.world.figure_request import FigureRequest, figure_corners, figure_scene
from diffopd.world.figures import random_figure
from diffopd.world.find_figure import AskedFigure, find_figure
from diffopd.world.learning_tasks import subject_task

HOW = {"max_residual": 60.0, "background_chroma": 60.0}
BLANK = np.full((32, 32, 3), 200.0)


def drawn(seed, side=32, *, index=None, colours=None, position=None):
    """A drawing of an unseen prompt with something else in it, and what the prompt asks for."""
    line = subject_task(0).tests[seed]
    request = FigureRequest("x", None, line["size"], position or line["position"], line["place"])
    asked = AskedFigure(line["figure"], tuple(line["colours"] or ()) or None, line["size"], line["position"])
    rng = np.random.default_rng(seed)
    index = line["figure"] if index is None else index(rng)
    return draw(figure_scene(request, rng, index=index, colours=colours or line["colours"]), side), asked


@pytest.mark.parametrize("side", [32, 64])
def test_the_figure_itself_overlaps_and_another_does_not(side):
    right = [find_figure(*drawn(seed, side), **HOW).asked for seed in range(12)]
    other = [find_figure(*drawn(seed, side, index=random_figure), **HOW).asked for seed in range(12)]
    assert min(right) > 0.9
    assert max(other) < 0.85
    assert np.mean(other) < 0.6


def test_elsewhere_it_is_found_and_is_not_where_it_was_asked_for():
    line = next(n for n, line in enumerate(subject_task(0).tests) if line["position"] == "at the top left")
    found = find_figure(*drawn(line, position="at the bottom right"), **HOW)
    assert found.anywhere > 0.9
    assert found.asked < 0.5


def test_in_other_colors_it_is_not_what_was_asked():
    line = next(n for n, line in enumerate(subject_task(0).tests) if line["colours"])
    wrong = tuple(reversed(subject_task(0).tests[line]["colours"]))
    assert find_figure(*drawn(line, colours=wrong), **HOW).asked < 0.9
    free = AskedFigure(subject_task(0).tests[line]["figure"])  # any two colors
    assert find_figure(drawn(line, colours=wrong)[0], free, **HOW).asked > 0.9


def test_a_blank_picture_shows_nothing_and_another_size_is_an_error():
    assert find_figure(BLANK, AskedFigure(8), **HOW).anywhere == 0
    with pytest.raises(ValueError, match="square drawings of a multiple of 32 pixels, got 32 x 30"):
        find_figure(BLANK[:, :30], AskedFigure(8), **HOW)


def test_corners_are_those_that_scenes_have():
    rng = np.random.default_rng(0)
    for position in ("at the left", "in the middle"):
        scene = figure_scene(FigureRequest(position=position, size="small"), rng)
        lefts, tops = figure_corners(position, "small")
        assert scene.figures[0].left in lefts
        assert scene.figures[0].top in tops
