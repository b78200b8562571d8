"""Sizes of about equal area."""

import math

import pytest

from diffopd.data.buckets import LARGEST_RATIO, RELEASED, nearest_size, sizes_of_area


@pytest.mark.parametrize(
    ("size", "step"), [((1024, 1024), 64), ((512, 512), 64), ((768, 1024), 64), ((32, 32), 8)]
)
def test_sizes_are_multiples_of_the_step_with_about_the_area(size, step):
    sizes = sizes_of_area(size, step)
    assert sizes[0] == size
    assert len(set(sizes)) == len(sizes) > 2
    area = size[0] * size[1]
    for height, width in sizes[1:]:
        assert height % step == width % step == 0
        assert max(height, width) <= LARGEST_RATIO * min(height, width)
        assert abs(height * width - area) <= max(height, width, math.sqrt(area)) * step / 2  # half a step
        assert (width, height) in sizes


def test_the_shape_decides_and_not_the_size():
    sizes = sizes_of_area((1024, 1024), 64)
    assert nearest_size((10, 10), sizes) == (1024, 1024)
    assert nearest_size((4000, 4000), sizes) == (1024, 1024)
    assert nearest_size((1080, 1920), RELEASED) == (720, 1280)
    assert nearest_size((1920, 1080), RELEASED) == (1280, 720)
    assert nearest_size((100, 1000), RELEASED) == (576, 1344)  # wider than any


def test_the_released_sizes_are_eleven_of_about_a_megapixel():
    assert len(set(RELEASED)) == 11
    assert all((width, height) in RELEASED for height, width in RELEASED)
    assert all(0.73 < height * width / 1024**2 < 1.03 for height, width in RELEASED)
